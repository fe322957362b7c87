"""Triton kernels for GPUs. Without Triton, torch computes the same."""
