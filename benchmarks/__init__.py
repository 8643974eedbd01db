"""Ratios measured in one run; see docs/benchmarks.md."""
