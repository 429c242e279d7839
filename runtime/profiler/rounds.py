"""Timing of several candidates against each other, in interleaved rounds.

In every round each candidate runs once. A round's order is shuffled, and the next one's is that backwards: a machine
that slows down slows everyone, and nobody is for ever the one who runs twice in succession, with what it needs in the
caches (a fixed order and its reverse favour the first and the last by some percent), or behind the same other. Warm-up
rounds do not count, and go on while somebody still gets faster. Ratios to a baseline are taken round by round, so that
noise which hits both cancels. Where a precision is asked for, rounds go on for a quarter of a second at least, since a
few milliseconds show one mood of a machine and call it the model's, and then until every interval is that narrow or the
time is up; that rule looks at widths only, never at which side of 1 a ratio lies, and so favours no verdict.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.profiler.timing import Timing, timing_of

if TYPE_CHECKING:
    import numpy as np
    from mopt.runtime.contract import Runner

CLOCK: Final[Callable[[], float]] = time.perf_counter
MOST_ROUNDS: Final = 2000
"""Counted rounds at most, however wide the intervals still are."""
LEAST_SECONDS: Final = 0.25
"""Counted rounds take so long at least where a precision is asked for; fewer where `MOST_ROUNDS` come first."""
_LEAST_WARMUP: Final = 0.05
_WINDOW: Final = 4
_SETTLED: Final = 0.97
"""Warmed up: the last window's median is no less than this share of the window's before."""


def profile(
    candidates: Mapping[str, Runner],
    feeds: Mapping[str, Mapping[str, np.ndarray[Any, Any]]],
    *,
    runs: int = 20,
    warmup: int = 3,
    batch: int = 1,
    baselines: Mapping[str, str] | str | None = None,
    precision: float | None = None,
    seconds: float = 1.0,
    settle: float = 0.0,
    clock: Callable[[], float] = CLOCK,
    advance: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time candidates in interleaved rounds.

    A runner that has a method `timed(feeds) -> float` (seconds, measured on its device) is timed by it. One that has
    `bound(feeds)` gives a function without arguments that does nothing but run. Where that has a method `seconds()`
    (runs once, measured on the device) and says `timed_by_device`, it is timed by that, else the clock goes around it;
    without `bound`, around `run`. Threads are the runners' own matter (`OrtRunner(threads=…)`).

    Args:
        candidates: runners by name.
        feeds: inputs by candidate name.
        runs: rounds that count, at least; `warmup` rounds before them, at least, do not.
        batch: samples in one run, for the throughput.
        baselines: for each candidate the one it is compared with, or one name for all.
        precision: go on for `LEAST_SECONDS`, and until half of each ratio's interval (of a time's own, where nothing
            is compared) is at most this share of it; None: `runs` rounds and no more.
        seconds: how long to go on for that, in all, counted rounds included.
        settle: seconds that warming up may take beyond `warmup` rounds while a candidate still gets faster.
        clock: seconds, monotonic.
        advance: called after each of the `warmup + runs` rounds that were announced.

    Raises:
        ValueError: `runs` is less than 1, or a baseline is no candidate.
    """
    if runs < 1:
        raise ValueError("a profile needs at least one run")
    against = _baselines(candidates, baselines)
    once = {name: _prepared(runner, feeds[name], clock) for name, runner in candidates.items()}
    series = _Rounds(once, advance)
    series.run(warmup)
    begin = clock()
    while clock() < begin + settle and not (clock() >= begin + _LEAST_WARMUP and series.settled()):
        series.run(1, announced=False)
    series.forget()
    begin = clock()
    series.run(runs)
    if precision is not None:
        enough = begin + min(LEAST_SECONDS, seconds)
        while series.counted < MOST_ROUNDS and clock() < enough:
            series.run(1, announced=False)
    found = series.summary(against, batch)
    while precision is not None and series.counted < MOST_ROUNDS and clock() < begin + seconds:
        if all((timing.ratio.spread if timing.ratio else timing.chance) <= precision for name, timing in found.items()
               if name in against or not against):  # fmt: skip
            break
        # A look costs a sort of everything measured: a few rounds at a time.
        series.run(max(2, series.counted // 10), announced=False)
        found = series.summary(against, batch)
    return found


def orders(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the orders of rounds, for ever: a shuffled one, then that backwards.

    Whoever ends a shuffled round begins the next; each candidate does so in its turn. Between pairs of rounds nobody
    runs twice in succession. The same names give the same orders.
    """
    shuffle, before = random.Random(0).shuffle, ""
    for last in itertools.cycle(names):
        others = [name for name in names if name != last]
        shuffle(others)
        if len(others) > 1 and others[0] == before:
            others = [*others[1:], others[0]]
        order = [*others, last]
        yield order
        yield order[::-1]
        before = order[0]


class _Rounds:
    """Rounds done so far: times in seconds by candidate."""

    def __init__(self, once: Mapping[str, Callable[[], float]], advance: Callable[[], object] | None) -> None:
        self._once, self._advance = once, advance
        self._times: dict[str, list[float]] = {name: [] for name in once}
        self._orders = orders(list(once))

    @property
    def counted(self) -> int:
        """Rounds since the last `forget`."""
        return len(next(iter(self._times.values()), []))

    def run(self, rounds: int, *, announced: bool = True) -> None:
        """Run so many rounds more."""
        for _ in range(rounds):
            for name in next(self._orders):
                self._times[name].append(self._once[name]())
            if self._advance is not None and announced:
                self._advance()

    def settled(self) -> bool:
        """Tell whether nobody gets faster any more."""
        if self.counted < 2 * _WINDOW:
            return False
        return all(
            statistics.median(times[-_WINDOW:]) >= _SETTLED * statistics.median(times[-2 * _WINDOW : -_WINDOW])
            for times in self._times.values()
        )

    def forget(self) -> None:
        """Count from here."""
        for times in self._times.values():
            times.clear()

    def summary(self, against: Mapping[str, str], batch: int) -> dict[str, Timing]:
        """Return what was measured so far."""
        return {
            name: timing_of(times, batch, (against[name], self._times[against[name]]) if name in against else None)
            for name, times in self._times.items()
        }


def _baselines(candidates: Mapping[str, Runner], given: Mapping[str, str] | str | None) -> dict[str, str]:
    if given is None:
        return {}
    against = {name: given for name in candidates if name != given} if isinstance(given, str) else dict(given)
    for name, base in against.items():
        if name not in candidates or base not in candidates:
            raise ValueError(f"`{name}` can't be compared with `{base}`: not both are candidates")
    return {name: base for name, base in against.items() if name != base}


def _prepared(
    runner: Runner, feeds: Mapping[str, np.ndarray[Any, Any]], clock: Callable[[], float]
) -> Callable[[], float]:
    timed = getattr(runner, "timed", None)
    if callable(timed):
        return lambda: float(timed(feeds))
    bound = getattr(runner, "bound", None)
    run: Any = bound(feeds) if callable(bound) else lambda: runner.run(feeds)
    if getattr(run, "timed_by_device", False):
        on_device: Callable[[], float] = run.seconds
        return on_device

    def once() -> float:
        start = clock()
        run()
        return clock() - start

    return once
