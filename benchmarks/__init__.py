"""Benchmarks behind docs/results.md: `python -m benchmarks` lists them."""
