"""The profiler on runners whose times are known: a clock that only they move."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from collections import Counter

import numpy as np
import pytest
from mopt.runtime.profiler import Ratio, median_interval, profile


class Clock:
    """Time that passes only when a runner says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def runner(self, name, durations):
        durations = itertools.cycle(durations) if isinstance(durations, list) else durations
        clock = self

        class Runner:
            def run(self, feeds):
                clock.order.append(name)
                clock.now += next(durations)
                return {}

        return Runner()


def time(clock, runners, **options):
    return profile(runners, {name: {} for name in runners}, clock=clock, **options)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_rounds_are_interleaved_and_every_other_one_is_the_one_before_backwards(count):
    clock, names = Clock(), "abcdefgh"[:count]
    time(clock, {name: clock.runner(name, [1.0]) for name in names}, runs=16 * count - 1, warmup=1)
    rounds = [clock.order[at : at + count] for at in range(0, len(clock.order), count)]
    assert all(sorted(order) == list(names) for order in rounds)
    assert all(back == forth[::-1] for forth, back in zip(rounds[::2], rounds[1::2], strict=True))
    after = Counter(itertools.pairwise(clock.order))
    if count > 1:
        assert {after[name, name] for name in names} == {8}, "everybody runs twice in succession as often"
    assert len(after) == count**2, "and behind everybody else"


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_nobody_is_favoured_by_caches(count):
    """Who runs twice in succession finds the caches warm and takes 8 % less: a fixed order gives that to its ends."""
    clock, last = Clock(), [""]

    def durations(name):
        rng = random.Random(name)
        while True:
            yield rng.gauss(1, 0.03) * (0.92 if last[0] == name else 1.0)
            last[0] = name

    names = "abcdefgh"[:count]
    runners = {name: clock.runner(name, durations(name)) for name in names}
    found = time(clock, runners, baselines="a", runs=400)
    assert {timing.ratio.verdict for timing in found.values() if timing.ratio} == {"no difference"}
    assert all(timing.ratio.value == pytest.approx(1, abs=0.01) for timing in found.values() if timing.ratio)


def test_warm_up_does_not_count():
    clock = Clock()
    durations = itertools.chain([100.0] * 3, itertools.repeat(2.0))
    found = time(clock, {"a": clock.runner("a", durations)}, runs=7, warmup=3)["a"]
    assert (found.median, found.low, found.high) == pytest.approx((2.0, 1.95, 2.05)), "chance has no part in it"
    assert found.rounds == 7


def test_the_median_is_of_what_was_measured():
    clock = Clock()
    durations = [5.0, 1.0, 3.0, 2.0, 100.0]
    found = time(clock, {"a": clock.runner("a", durations)}, runs=5, warmup=0)["a"]
    assert found.median == pytest.approx(3.0)
    assert (found.low, found.high) == pytest.approx((1.0, 100.0), rel=2e-3), "five values have no narrower interval"
    assert found.confidence == pytest.approx(1 - 2 * 0.5**5)


@pytest.mark.parametrize(("count", "rank"), [(6, 1), (10, 2), (20, 6), (50, 18), (100, 40)])
def test_ranks_of_the_interval_are_those_of_the_tables(count, rank):
    """Ranks from printed tables of the sign test's 95 % interval for a median (Conover, table A.3)."""
    low, high, reached = median_interval([float(value) for value in range(1, count + 1)])
    assert (low, high) == (rank, count + 1 - rank)
    assert 0.95 <= reached < 0.99


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    rng = random.Random(0)
    covered = sum(
        low <= 1.0 <= high
        for low, high, _ in (median_interval([rng.lognormvariate(0, 0.5) for _ in range(25)]) for _ in range(2000))
    )
    assert 0.94 < covered / 2000 < 0.985


def drifting(scale, rng):
    """A machine that slows down twofold while it is measured, with noise of 2 %."""
    for number in itertools.count():
        yield scale * (1 + number / 40) * rng.gauss(1, 0.02)


def test_a_slowing_machine_hides_no_difference():
    clock, rng = Clock(), random.Random(1)
    runners = {"old": clock.runner("old", drifting(1.0, rng)), "new": clock.runner("new", drifting(0.9, rng))}
    found = time(clock, runners, runs=40, warmup=0, baselines="old")
    assert found["new"].high > found["old"].low, "the plain intervals overlap"
    ratio = found["new"].ratio
    assert ratio.value == pytest.approx(0.9, rel=0.02)
    assert ratio.low < 0.9 < ratio.high
    assert ratio.verdict == "faster"


def noisy(scale, seed, *, sigma=0.03, memory=0.0):
    """A machine with noise of `sigma`, of which a share `memory` is left over from the run before."""
    rng, state = random.Random(seed), 0.0
    while True:
        state = memory * state + (1 - memory**2) ** 0.5 * rng.gauss(0, sigma)
        yield scale * math.exp(state)


DEFAULTS = {"runs": 20, "warmup": 3, "precision": 0.02, "seconds": 1000.0, "settle": 10.0}
"""What a recipe's `profile()` and `mopt profile` ask for; the clock is not the machine's, so time is no matter."""


@pytest.mark.parametrize(("sigma", "memory"), [(0.02, 0.0), (0.05, 0.0), (0.1, 0.0), (0.05, 0.5)])
def test_equal_candidates_are_no_different_in_95_of_100_runs(sigma, memory):
    verdicts = []
    for seed in range(100):
        clock = Clock()
        runners = {
            name: clock.runner(name, noisy(1.0, f"{seed}{name}", sigma=sigma, memory=memory)) for name in ("a", "b")
        }
        verdicts.append(time(clock, runners, baselines={"b": "a"}, **DEFAULTS)["b"].ratio.verdict)
    assert verdicts.count("no difference") >= 95


@pytest.mark.parametrize("sigma", [0.005, 0.02, 0.05])
@pytest.mark.parametrize(("scale", "verdict"), [(0.95, "faster"), (1.05, "slower")])
def test_a_true_difference_of_5_percent_is_found_with_the_defaults(sigma, scale, verdict):
    found = []
    for seed in range(50):
        clock = Clock()
        runners = {"a": clock.runner("a", noisy(1.0, f"{seed}a", sigma=sigma)),
                   "b": clock.runner("b", noisy(scale, f"{seed}b", sigma=sigma))}  # fmt: skip
        found.append(time(clock, runners, baselines={"b": "a"}, **DEFAULTS)["b"].ratio.verdict)
    assert found.count(verdict) >= 49


def test_sessions_that_differ_by_where_memory_lies_are_no_different():
    """Two sessions of one file, 0.6 % apart on a machine so quiet that any interval shows it."""
    verdicts = []
    for seed in range(20):
        clock = Clock()
        runners = {"a": clock.runner("a", noisy(1.0, f"{seed}a", sigma=0.002)),
                   "b": clock.runner("b", noisy(0.994, f"{seed}b", sigma=0.002))}  # fmt: skip
        found = time(clock, runners, baselines={"b": "a"}, **DEFAULTS)["b"].ratio
        assert found.high < 1.0
        verdicts.append(found.verdict)
    assert verdicts == ["no difference"] * 20


def test_half_a_microsecond_says_nothing_of_a_model():
    """A run of 50 µs that takes 1 µs longer in another session is 2 % slower; one of 50 ms that takes 1 ms is."""
    for scale, verdict in ((5e-5, "no difference"), (5e-2, "slower")):
        clock = Clock()
        runners = {"a": clock.runner("a", noisy(scale, "a", sigma=0.002)),
                   "b": clock.runner("b", noisy(1.02 * scale, "b", sigma=0.002))}  # fmt: skip
        found = time(clock, runners, baselines={"b": "a"}, **DEFAULTS)["b"].ratio
        assert (found.low > 1.0, found.verdict) == (True, verdict)


def test_two_calls_agree_within_their_intervals_in_95_of_100():
    agreed = 0
    for seed in range(100):
        calls = []
        for call in "xy":
            clock = Clock()
            calls.append(time(clock, {"a": clock.runner("a", noisy(1.0, f"{seed}{call}"))}, **DEFAULTS)["a"])
        one, two = calls
        agreed += one.low <= two.high and two.low <= one.high
    assert agreed >= 95


def test_calls_agree_on_a_machine_whose_speed_is_another_each_time():
    """Between calls 1.5 % (standard deviation), as seen on an idle one; in a call next to nothing."""
    rng, calls = random.Random(0), []
    for seed in range(40):
        clock = Clock()
        speed = rng.gauss(1.0, 0.015)
        calls.append(time(clock, {"a": clock.runner("a", noisy(speed, seed, sigma=0.002))}, **DEFAULTS)["a"])
    pairs = list(itertools.combinations(calls, 2))
    assert sum(one.low <= two.high and two.low <= one.high for one, two in pairs) >= 0.95 * len(pairs)
    assert max(call.chance for call in calls) < 0.01, "which their rounds alone would not tell"


def test_what_takes_microseconds_is_measured_for_a_quarter_of_a_second():
    """A machine that is 20 % slower for 20 ms now and then: 20 rounds of 0.1 ms see one of the two states."""
    clock = Clock()

    def moods():
        while True:
            yield 1.2e-4 if clock.now % 0.1 < 0.02 else 1e-4

    runners = {"a": clock.runner("a", moods()), "b": clock.runner("b", moods())}
    found = time(clock, runners, runs=20, warmup=3, precision=0.02, seconds=1.0, settle=0.5, baselines="a")
    assert 1000 < found["b"].rounds <= 2000
    assert found["b"].median == pytest.approx(1e-4)
    assert clock.now < 0.5, "and no longer than that, where the interval is narrow"


def test_rounds_go_on_until_the_interval_is_narrow_enough():
    clock = Clock()
    runners = {name: clock.runner(name, noisy(1.0, name, sigma=0.05)) for name in ("a", "b")}
    found = time(clock, runners, runs=20, warmup=0, baselines="a", precision=0.02, seconds=1e6)["b"]
    assert 20 < found.rounds < 500
    assert found.ratio.spread <= 0.02
    clock = Clock()
    runners = {name: clock.runner(name, noisy(1.0, name, sigma=0.05)) for name in ("a", "b")}
    hurried = time(clock, runners, runs=20, warmup=0, baselines="a", precision=0.02, seconds=50.0)["b"]
    assert 20 < hurried.rounds <= 30, "fifty seconds are twenty-five rounds of two, and a batch of rounds more"
    clock = Clock()
    quiet = {name: clock.runner(name, noisy(1.0, name, sigma=0.001)) for name in ("a", "b")}
    assert time(clock, quiet, runs=20, warmup=0, baselines="a", precision=0.02, seconds=1e6)["b"].rounds == 20


def test_warming_up_goes_on_while_somebody_gets_faster():
    clock = Clock()
    cooling = (1.0 + 4.0 * 0.7**number for number in itertools.count())
    found = time(clock, {"a": clock.runner("a", cooling)}, runs=10, warmup=2, settle=1e6)["a"]
    assert found.high < 1.1, "without it the first counted round would take 2.96 s"
    clock = Clock()
    falling = (1000.0 * 0.9**number for number in itertools.count())
    time(clock, {"a": clock.runner("a", falling)}, runs=10, warmup=2, settle=4000.0)
    assert clock.order.count("a") < 30, "it never settles, and the time for it ends"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.8, 0.9, "faster"),
        (1.1, 1.2, "slower"),
        (0.9, 1.1, "no difference"),
        (0.985, 0.999, "no difference"),
        (1.001, 1.015, "no difference"),
        (0.97, 0.999, "faster"),
        (1.001, 1.03, "slower"),
    ],
)
def test_the_verdict_is_the_intervals(low, high, verdict):
    assert Ratio("base", (low + high) / 2, low, high).verdict == verdict


def test_the_baseline_has_no_ratio_to_itself():
    clock = Clock()
    runners = {name: clock.runner(name, [1.0]) for name in "ab"}
    found = time(clock, runners, runs=6, baselines={"a": "a", "b": "a"})
    assert found["a"].ratio is None
    assert found["b"].ratio.baseline == "a"


def test_throughput_is_of_samples():
    clock = Clock()
    assert time(clock, {"a": clock.runner("a", [0.5])}, runs=3, batch=8)["a"].throughput == pytest.approx(16)


def test_a_runner_that_times_itself_is_believed():
    clock = Clock()

    class Device:
        def run(self, feeds):
            pytest.fail("run is not what is timed")

        def timed(self, feeds):
            return 0.25

    assert time(clock, {"gpu": Device()}, runs=3)["gpu"].median == 0.25


def test_feeds_go_to_their_candidate_and_progress_is_told():
    seen, rounds = {}, []

    class Runner:
        def __init__(self, name):
            self.name = name

        def run(self, feeds):
            seen[self.name] = feeds["x"]
            return {}

    feeds = {name: {"x": np.array(at)} for at, name in enumerate("ab")}
    profile({name: Runner(name) for name in "ab"}, feeds, runs=2, warmup=1, advance=lambda: rounds.append(1))
    assert (seen["a"], seen["b"]) == (0, 1)
    assert len(rounds) == 3


def test_mistakes_are_refused():
    clock = Clock()
    with pytest.raises(ValueError, match="at least one run"):
        time(clock, {}, runs=0)
    with pytest.raises(ValueError, match="`a` can't be compared with `z`"):
        time(clock, {"a": clock.runner("a", [1.0])}, baselines={"a": "z"})


def test_json_says_everything():
    clock = Clock()
    runners = {"a": clock.runner("a", [2.0]), "b": clock.runner("b", [1.0])}
    written = json.loads(json.dumps(time(clock, runners, runs=8, baselines="a")["b"].to_json()))
    assert written["median"] == statistics.median([1.0])
    assert written["ratio"] == {
        "baseline": "a",
        "value": 0.5,
        "low": 0.5,
        "high": 0.5,
        "confidence": 1 - 2 * 0.5**8,
        "equal": 0.015,
        "verdict": "faster",
    }
