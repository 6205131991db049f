"""Benchmarks of initlab beside what one would use instead: see `python -m benchmarks --help`."""
