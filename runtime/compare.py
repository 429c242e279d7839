"""Numeric comparison of outputs: how far one model has drifted from another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from mopt.ir.module import Module

Array = np.ndarray[Any, np.dtype[Any]]

_FLAT: Final = 0.1
"""An output that hardly varies is scaled by this share of its magnitude instead of by its (tiny) range; one of a
single element, which has none, by all of its magnitude."""

_FAINT: Final = 1e-3
"""The smallest scale: a sigmoid far below its threshold is a few multiples of float32's resolution at 1 (6e-8), and
one such multiple is no error of a hundredth."""


@dataclass(frozen=True)
class OutputDrift:
    """How far one output drifted.

    Attributes:
        max_abs: the largest absolute difference.
        max_rel: `max_abs` over the output's own range (largest minus smallest expected value), so that elements
            near zero do not explode it (a range below 0.001 counts as that); infinite where NaN or infinity
            stands in only one of the two.
        cosine: cosine of the two, flattened; 1 where both are all zero.
        problem: why the two can't be compared (another shape, an output missing), else empty.
    """

    max_abs: float
    max_rel: float
    cosine: float
    problem: str = ""


@dataclass(frozen=True)
class Drift:
    """How far a model's outputs drifted: the worst figures over all outputs, and each output's own.

    Attributes:
        worst: the output with the largest `max_rel`; empty where there are no outputs.
    """

    max_abs: float
    max_rel: float
    cosine: float
    worst: str
    outputs: Mapping[str, OutputDrift] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """Why some output can't be compared, else empty."""
        return "; ".join(drift.problem for drift in self.outputs.values() if drift.problem)

    def within(self, max_rel: float) -> bool:
        """Say whether every output is there, of its shape, and within a relative error."""
        return not self.problem and self.max_rel <= max_rel

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        return (
            f"max rel {self.max_rel:.3g} (output `{self.worst}`), max abs {self.max_abs:.3g}, cosine {self.cosine:.6f}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data; infinite figures are written as the string `inf`."""
        return {
            "max_abs": _number(self.max_abs),
            "max_rel": _number(self.max_rel),
            "cosine": _number(self.cosine),
            "worst": self.worst,
            "problem": self.problem or None,
        }


def drift(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> Drift:
    """Compare outputs by name. Integers and booleans are compared as numbers, text as equal or not.

    A missing output or another shape gives infinite figures and a `problem`, not an exception.
    """
    return _merge({name: _one(name, array, actual.get(name)) for name, array in expected.items()})


def compare_modules(
    a: Module,
    b: Module,
    *,
    seed: int = 0,
    bindings: Mapping[str, int] | Iterable[Mapping[str, int]] | None = None,
) -> Drift:
    """Run two modules under onnxruntime on the same seeded inputs and compare `b` with `a`.

    One session exists at a time, so the two never share the memory. Where `b`'s interface has other element
    types (a float16 interface), its inputs are cast and its outputs compared as numbers.

    Args:
        bindings: sizes of dynamic dimensions, or several sets of them; default: all of `binding_sets(a)`.

    Raises:
        TargetError: onnxruntime refuses one of the modules.
        RunError: one of them does not run with these sizes.
    """
    from mopt.runtime.inputs import binding_sets, seeded_inputs
    from mopt.runtime.ort import OrtRunner, cast_feeds

    if bindings is None:
        sets: list[Mapping[str, int]] = list(binding_sets(a))
    else:
        sets = [bindings] if isinstance(bindings, Mapping) else list(bindings)
    feeds = [seeded_inputs(a, sizes, seed) for sizes in sets]
    with OrtRunner(a) as runner:
        expected = [runner.run(given) for given in feeds]
    with OrtRunner(b) as runner:
        known = {port.name for port in runner.inputs}
        missing = known - set(feeds[0])
        if missing:
            raise ValueError(f"the second module has inputs that the first lacks: {', '.join(sorted(missing))}")
        actual = [runner.run(cast_feeds(given, runner.inputs)) for given in feeds]
    return worst_of([drift(one, other) for one, other in zip(expected, actual, strict=True)])


def worst_of(drifts: Iterable[Drift]) -> Drift:
    """Merge comparisons of the same outputs on several inputs: the worst figures of each output."""
    merged: dict[str, OutputDrift] = {}
    for one in drifts:
        for name, found in one.outputs.items():
            before = merged.get(name, found)
            merged[name] = OutputDrift(
                max(before.max_abs, found.max_abs),
                max(before.max_rel, found.max_rel),
                min(before.cosine, found.cosine),
                before.problem or found.problem,
            )
    return _merge(merged)


def _merge(outputs: dict[str, OutputDrift]) -> Drift:
    if not outputs:
        return Drift(0.0, 0.0, 1.0, "", {})
    worst = max(outputs, key=lambda name: outputs[name].max_rel)
    return Drift(
        max(found.max_abs for found in outputs.values()),
        outputs[worst].max_rel,
        min(found.cosine for found in outputs.values()),
        worst,
        outputs,
    )


def _one(name: str, expected: Array, actual: Array | None) -> OutputDrift:
    if actual is None:
        return OutputDrift(math.inf, math.inf, 0.0, f"output `{name}` is missing")
    expected, actual = np.asarray(expected), np.asarray(actual)
    if expected.shape != actual.shape:
        problem = f"output `{name}` has shape {list(actual.shape)} instead of {list(expected.shape)}"
        return OutputDrift(math.inf, math.inf, 0.0, problem)
    if expected.dtype.kind in "OUS":
        same = bool(np.array_equal(expected, actual))
        return OutputDrift(0.0, 0.0, 1.0) if same else OutputDrift(math.inf, math.inf, 0.0)
    if not expected.size:
        return OutputDrift(0.0, 0.0, 1.0)
    left, right = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    finite = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return OutputDrift(math.inf, math.inf, 0.0)
    left, right = left[finite], right[finite]
    if not left.size:
        return OutputDrift(0.0, 0.0, 1.0)
    largest = float(np.max(np.abs(left - right)))
    magnitude = float(np.max(np.abs(left)))
    scale = max(float(np.ptp(left)), magnitude * (1.0 if left.size == 1 else _FLAT), _FAINT)
    return OutputDrift(largest, largest / scale, _cosine(left, right))


def _cosine(left: Array, right: Array) -> float:
    length = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    if length == 0:
        return 1.0 if not left.any() and not right.any() else 0.0
    return float(np.clip(np.dot(left, right) / length, -1.0, 1.0))


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
