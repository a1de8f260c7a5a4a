"""Yardsticks for the sampler: what a setting does to clips, and what it costs. See docs/benchmarks.md."""
