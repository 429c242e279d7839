"""What a series of times says: a median with its interval, a paired ratio with its verdict.

Intervals are the order-statistics confidence intervals of a median (distribution-free: the ranks that a
Binomial(n, 1/2) leaves out on both sides; Conover 1999, section 3.2). A candidate's own time is given with 95 %. A
ratio carries a verdict, so its interval is wider, of 99 %: two equal candidates are then called different in one
comparison of a hundred. Rounds on a shared machine are not independent; intervals are widened by what the series
itself shows of that.

What one call can't see, the machine's speed being another a minute later, enters a time's interval as the instrument's
own uncertainty, combined in quadrature with that of chance (type B and type A of JCGM 100:2008, the GUM). It cancels in
a ratio, whose two sides are measured together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

Verdict = Literal["faster", "slower", "no difference"]

CONFIDENCE: Final = 0.95
VERDICT_CONFIDENCE: Final = 0.99
EQUAL: Final = 0.015
"""A ratio this near to 1 is no difference: two sessions of one file differ by up to 1 %, by where their memory lies
(Mytkowicz et al. 2009, Producing Wrong Data Without Doing Anything Obviously Wrong)."""
EQUAL_SECONDS: Final = 1.5e-6
"""And so is a difference this small: where a session's memory lies is worth half a microsecond (standard deviation, of
runs of 60 and of 240 µs), which of a short run is more than `EQUAL`."""
REPEATABILITY: Final = 0.025
"""Share of a time by which its interval is wide at least on both sides. Medians of one model in calls over a minute
have a standard deviation of 1.1 to 1.7 % on an idle machine, however many rounds each has; with 2.5 % on both sides 97
to 100 of 100 pairs of calls agree (`tests/benchmarks/profiler.py`)."""


@dataclass(frozen=True)
class Ratio:
    """Time relative to a baseline: the median of the rounds' ratios with its interval, and what it says.

    Attributes:
        baseline: the candidate that it is relative to.
        value: the median of the rounds' ratios; `low` and `high` bound it with the confidence given.
        confidence: that the interval covers the true ratio; less than 99 % below eight rounds.
        equal: a ratio this near to 1 is no difference: `EQUAL`, or what `EQUAL_SECONDS` is of a short run.
    """

    baseline: str
    value: float
    low: float
    high: float
    confidence: float = VERDICT_CONFIDENCE
    equal: float = EQUAL

    @property
    def verdict(self) -> Verdict:
        """`faster` or `slower` where the whole interval lies on one side of 1, and the ratio more than `equal` from it.

        The interval tells chance from difference; what is smaller than `equal` may be there and says nothing of the
        models.
        """
        if self.high < 1.0 and self.value < 1.0 - self.equal:
            return "faster"
        return "slower" if self.low > 1.0 and self.value > 1.0 + self.equal else "no difference"

    @property
    def spread(self) -> float:
        """Half the interval's width, relative to the ratio."""
        return (self.high - self.low) / 2 / self.value if self.value else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "baseline": self.baseline, "value": self.value, "low": self.low, "high": self.high,
            "confidence": self.confidence, "equal": self.equal, "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """How long one run of a candidate takes, in seconds.

    Attributes:
        median: of all counted rounds; `low` and `high` bound it: what chance and `REPEATABILITY` allow.
        confidence: that the rounds' own interval covers the true median; less than asked for where the rounds are few.
        rounds: how many were counted.
        batch: samples a run, for the throughput.
        ratio: relative to its baseline, where it has one.
        chance: half the width of the rounds' own interval, relative to the median.
    """

    median: float
    low: float
    high: float
    confidence: float
    rounds: int
    batch: int = 1
    ratio: Ratio | None = None
    chance: float = 0.0

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return self.batch / self.median if self.median else math.inf

    @property
    def spread(self) -> float:
        """Half the interval's width, relative to the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain data, times in seconds."""
        return {
            "median": self.median, "low": self.low, "high": self.high, "confidence": self.confidence,
            "chance": self.chance, "rounds": self.rounds, "batch": self.batch, "throughput": self.throughput,
            "ratio": self.ratio.to_json() if self.ratio else None,
        }  # fmt: skip


def timing_of(seconds: Sequence[float], batch: int = 1, against: tuple[str, Sequence[float]] | None = None) -> Timing:
    """Summarise a candidate's times, in seconds, round by round.

    Args:
        seconds: its times.
        batch: samples a run.
        against: its baseline's name, and that one's times in the same rounds.
    """
    low, high, reached = _of_series(seconds, CONFIDENCE)
    ratio = None
    if against is not None:
        base, others = against
        # A clock too coarse to see a run gives 0; an infinite ratio says so honestly.
        pairs = [mine / other if other else math.inf for mine, other in zip(seconds, others, strict=True)]
        whole = statistics.median(others)
        equal = max(EQUAL, EQUAL_SECONDS / whole) if whole else EQUAL
        ratio = Ratio(base, statistics.median(pairs), *_of_series(pairs, VERDICT_CONFIDENCE), equal)
    median = statistics.median(seconds)
    instrument = REPEATABILITY * median
    return Timing(
        median, median - math.hypot(median - low, instrument), median + math.hypot(high - median, instrument),
        reached, len(seconds), batch, ratio, (high - low) / 2 / median if median else 0.0,
    )  # fmt: skip


def _of_series(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    return median_interval(values, confidence, inflation=dependence(values))


def median_interval(
    values: Sequence[float], confidence: float = CONFIDENCE, *, inflation: float = 1.0
) -> tuple[float, float, float]:
    """Return (low, high, confidence reached) of the median, by order statistics.

    Fewer than six values reach no 95 % (eight for 99 %); the whole range is given then, with what it reaches.

    Args:
        values: measured values, in any order.
        confidence: asked for.
        inflation: how much wider than for independent values; see `dependence`.
    """
    ordered = sorted(values)
    count = len(ordered)
    rank, reached = _rank(count, confidence)
    if inflation > 1.0:
        middle = (count + 1) / 2
        rank = max(1, math.floor(middle - (middle - rank) * inflation))
    return ordered[rank - 1], ordered[count - rank], max(reached, 0.0)


@lru_cache(maxsize=256)
def _rank(count: int, confidence: float) -> tuple[int, float]:
    """Return the largest k with P(k-th smallest < median < k-th largest) ≥ confidence, and that probability."""
    # It is 1 - 2·P(Binomial(n, 1/2) < k), counted in whole numbers: 2^-2000 is no float.
    below, term, rank, reached = 0, 1, 1, 1 - 2 / 2**count
    for k in range(1, count // 2 + 1):
        below += term
        covered = 1 - 2 * below / 2**count
        if covered < confidence:
            break
        rank, reached = k, covered
        term = term * (count - k + 1) // k
    return rank, reached


def dependence(values: Sequence[float]) -> float:
    """Return how much wider a median's interval must be because neighbouring values resemble each other.

    A median's variance is that of the mean of signs (above or below it), so it grows by 1 + 2·Σ ρ(lag) of the signs'
    autocorrelations (Brockwell and Davis 1991, section 7.1); lags up to the cube root of the count, while positive.
    1 for independent values, never less.
    """
    middle = statistics.median(values)
    signs = [(value > middle) - (value < middle) for value in values]
    power = sum(sign * sign for sign in signs)
    if not power:
        return 1.0
    total = 0.0
    for lag in range(1, max(1, round(len(signs) ** (1 / 3))) + 1):
        correlation = sum(one * two for one, two in zip(signs, signs[lag:], strict=False)) / power
        if correlation <= 0:
            break
        total += correlation
    return math.sqrt(1 + 2 * total)
