"""Yardsticks for the sampler: what a setting does to clips (`analytic`, `box`), and what it costs (`cost`).

`docs/benchmarks.md` has the figures.
"""
