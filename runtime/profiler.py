"""Timing of several candidates against each other: interleaved rounds, medians with intervals, paired ratios.

Method: in every round each candidate runs once, and rounds alternate their order, so that a machine that slows
down slows everyone. After `warmup` rounds that are not counted, the median of each candidate's times is given with
the order-statistics confidence interval of a median (distribution-free: the ranks that a Binomial(n, 1/2) leaves
out on both sides). Ratios to a baseline are taken round by round and summarised in the same way, so that noise
which hits both cancels; a candidate is faster or slower only where that interval lies wholly on one side of 1.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import numpy as np
    from mopt.runtime.contract import Runner

Verdict = Literal["faster", "slower", "no difference"]

CONFIDENCE: Final = 0.95
CLOCK: Final[Callable[[], float]] = time.perf_counter


@dataclass(frozen=True)
class Ratio:
    """Time relative to a baseline: the median of the rounds' ratios with its interval, and what it says."""

    baseline: str
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """`faster` or `slower` where the whole interval lies on one side of 1."""
        if self.high < 1.0:
            return "faster"
        return "slower" if self.low > 1.0 else "no difference"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "baseline": self.baseline, "value": self.value, "low": self.low, "high": self.high,
            "verdict": self.verdict,
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


def profile(
    candidates: Mapping[str, Runner],
    feeds: Mapping[str, Mapping[str, np.ndarray[Any, Any]]],
    *,
    runs: int = 20,
    warmup: int = 3,
    batch: int = 1,
    baselines: Mapping[str, str] | str | None = None,
    clock: Callable[[], float] = CLOCK,
    advance: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time candidates in interleaved rounds.

    A runner that has a method `timed(feeds) -> float` (seconds, measured on its device) is timed by it; others by
    the clock around `run`. Threads are the runners' own matter (`OrtRunner(threads=…)`).

    Args:
        candidates: runners by name.
        feeds: inputs by candidate name.
        runs: rounds that count; `warmup` rounds before them do not.
        batch: samples in one run, for the throughput.
        baselines: for each candidate the one it is compared with, or one name for all.
        clock: seconds, monotonic.
        advance: called after every round.

    Raises:
        ValueError: `runs` is less than 1, or a baseline is no candidate.
    """
    if runs < 1:
        raise ValueError("a profile needs at least one run")
    against = _baselines(candidates, baselines)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    for number in range(warmup + runs):
        for name in order if number % 2 == 0 else reversed(order):
            seconds = _once(candidates[name], feeds[name], clock)
            if number >= warmup:
                times[name].append(seconds)
        if advance is not None:
            advance()
    return {name: _timing(name, times, against.get(name), batch) for name in candidates}


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Return (low, high, confidence reached) of the median, by order statistics.

    With fewer than six values no interval reaches 95 %; the whole range is given then, with what it reaches.
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
    return ordered[rank - 1], ordered[count - rank], max(reached, 0.0)


def _baselines(candidates: Mapping[str, Runner], given: Mapping[str, str] | str | None) -> dict[str, str]:
    if given is None:
        return {}
    against = {name: given for name in candidates if name != given} if isinstance(given, str) else dict(given)
    for name, base in against.items():
        if name not in candidates or base not in candidates:
            raise ValueError(f"`{name}` can't be compared with `{base}`: not both are candidates")
    return {name: base for name, base in against.items() if name != base}


def _once(runner: Runner, feeds: Mapping[str, np.ndarray[Any, Any]], clock: Callable[[], float]) -> float:
    timed = getattr(runner, "timed", None)
    if callable(timed):
        return float(timed(feeds))
    start = clock()
    runner.run(feeds)
    return clock() - start


def _timing(name: str, times: Mapping[str, list[float]], base: str | None, batch: int) -> Timing:
    own = times[name]
    low, high, reached = median_interval(own)
    ratio = None
    if base is not None:
        # A clock too coarse to see a run gives 0; an infinite ratio says so honestly.
        pairs = [mine / other if other else math.inf for mine, other in zip(own, times[base], strict=True)]
        pair_low, pair_high, _ = median_interval(pairs)
        ratio = Ratio(base, statistics.median(pairs), pair_low, pair_high)
    return Timing(statistics.median(own), low, high, reached, len(own), batch, ratio)
