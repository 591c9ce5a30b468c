"""Draws a method's samples and times them."""

from bench.sampling.source import (
    BatchCache,
    Source,
    Timed,
    count_sampling,
    draw_batch,
    draw_batches,
    draw_images,
    timed,
)
from bench.sampling.timing import (
    Drawn,
    WarmUp,
    draw_and_time,
    is_stable,
    latency,
    settle,
    warm_up,
    warm_up_facts,
    warm_up_reasons,
)

__all__ = [
    "BatchCache",
    "Drawn",
    "Source",
    "Timed",
    "WarmUp",
    "count_sampling",
    "draw_and_time",
    "draw_batch",
    "draw_batches",
    "draw_images",
    "is_stable",
    "latency",
    "settle",
    "timed",
    "warm_up",
    "warm_up_facts",
    "warm_up_reasons",
]
