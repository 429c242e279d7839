"""What is measured of every pipeline, by name, beside the recipe's own metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Dimension = Literal["number", "ratio", "score", "count", "bytes", "time"]
"""What a quantity of a condition counts. Plain numbers go with ratios, scores and counts; bytes with bytes only."""


@dataclass(frozen=True)
class MeasureKind:
    """A built-in measure: what it counts, and what it is."""

    dimension: Dimension
    help: str


MEASURES: Final[dict[str, MeasureKind]] = {
    "size": MeasureKind("bytes", "the bytes of the emitted files"),
    "compressed": MeasureKind("bytes", "the bytes of the emitted files after a general-purpose compressor"),
    "params": MeasureKind("count", "the number of parameters"),
    "nonzero": MeasureKind("count", "the number of parameters that are not zero"),
    "macs": MeasureKind("count", "the multiply-accumulate operations of one sample"),
    "latency": MeasureKind("time", "the median time of one run at the first batch size of `profile`"),
}

DIMENSION_WORDS: Final[dict[str, str]] = {
    "number": "a plain number",
    "ratio": "a ratio",
    "score": "a metric",
    "count": "a count",
    "bytes": "a size in bytes",
    "time": "a duration",
}
