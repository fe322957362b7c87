"""Benchmarks: each prints ratios of ours to a peer's, both measured in one run, alternating. `make
bench` runs all."""
