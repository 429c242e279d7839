"""What a series of times says: a median with its interval, a paired ratio with its verdict.

Intervals are the order-statistics confidence intervals of a median (distribution-free: the ranks that a
Binomial(n, 1/2) leaves out on both sides; Conover 1999, section 3.2). A candidate's own time is given with 95 %. A
ratio carries a verdict, so its interval is wider, of 99 %: two equal candidates are then called different in one
comparison of a hundred. Rounds on a shared machine are not independent; intervals are widened by what the series
itself shows of that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Verdict = Literal["faster", "slower", "no difference"]

CONFIDENCE: Final = 0.95
VERDICT_CONFIDENCE: Final = 0.99
EQUAL: Final = 0.015
"""A ratio this near to 1 is no difference: two sessions of one file differ by up to 1 %, by where their memory lies
(Mytkowicz et al. 2009, Producing Wrong Data Without Doing Anything Obviously Wrong)."""


@dataclass(frozen=True)
class Ratio:
    """Time relative to a baseline: the median of the rounds' ratios with its interval, and what it says.

    Attributes:
        baseline: the candidate that it is relative to.
        value: the median of the rounds' ratios; `low` and `high` bound it with the confidence given.
        confidence: that the interval covers the true ratio; less than 99 % below eight rounds.
    """

    baseline: str
    value: float
    low: float
    high: float
    confidence: float = VERDICT_CONFIDENCE

    @property
    def verdict(self) -> Verdict:
        """`faster` or `slower` where the whole interval lies on one side of 1, and the ratio more than `EQUAL` from it.

        The interval tells chance from difference; what is smaller than `EQUAL` may be there and says nothing of the
        models.
        """
        if self.high < 1.0 and self.value < 1.0 - EQUAL:
            return "faster"
        return "slower" if self.low > 1.0 and self.value > 1.0 + EQUAL else "no difference"

    @property
    def spread(self) -> float:
        """Half the interval's width, relative to the ratio."""
        return (self.high - self.low) / 2 / self.value if self.value else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "baseline": self.baseline, "value": self.value, "low": self.low, "high": self.high,
            "confidence": self.confidence, "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """How long one run of a candidate takes, in seconds.

    Attributes:
        median: of all counted rounds; `low` and `high` bound it with the confidence given.
        confidence: that the interval covers the true median; less than asked for where the rounds are few.
        rounds: how many were counted.
        batch: samples a run, for the throughput.
        ratio: relative to its baseline, where it has one.
    """

    median: float
    low: float
    high: float
    confidence: float
    rounds: int
    batch: int = 1
    ratio: Ratio | None = None

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
            "rounds": self.rounds, "batch": self.batch, "throughput": self.throughput,
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
        ratio = Ratio(base, statistics.median(pairs), *_of_series(pairs, VERDICT_CONFIDENCE))
    return Timing(statistics.median(seconds), low, high, reached, len(seconds), batch, ratio)


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
    # P(k-th smallest < median < k-th largest) = 1 - 2·P(Binomial(n, 1/2) < k); the largest k that still suffices.
    below, rank, reached = 0.0, 1, 1 - 2 * 0.5**count
    for k in range(1, count // 2 + 1):
        below += math.comb(count, k - 1) * 0.5**count
        if 1 - 2 * below < confidence:
            break
        rank, reached = k, 1 - 2 * below
    if inflation > 1.0:
        middle = (count + 1) / 2
        rank = max(1, math.floor(middle - (middle - rank) * inflation))
    return ordered[rank - 1], ordered[count - rank], max(reached, 0.0)


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
