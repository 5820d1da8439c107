"""Measuring models side by side: each in a process of its own, all of them in turns (docs/bench.md)."""

from vivim_runtime.bench.layers import layer_profile
from vivim_runtime.bench.measure import BenchOptions, bench
from vivim_runtime.bench.results import ModelResult, markdown_table, record, terminal_table

__all__ = ["BenchOptions", "ModelResult", "bench", "layer_profile", "markdown_table", "record", "terminal_table"]
