"""Measurements against the project's peers; each prints ratios of what ran alternating on one machine."""
