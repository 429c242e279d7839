"""Does a converted model compute what its source computes? Both are run on the same seeded inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from mopt.runtime.compare import Drift, drift
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner

if TYPE_CHECKING:
    from mopt.ir.module import Module

Arrays = dict[str, np.ndarray[Any, Any]]

TOLERANCE: Final = 1e-4
"""Largest difference, over the range of the output, that rounding in another order explains in float32."""

ILL_CONDITIONED: Final = 1e-2
"""The most that is let pass where the source itself answers rounding noise on its input with a larger difference."""

HALF_TOLERANCE: Final = 2e-2
"""The same for float16 and bfloat16."""


class DisagreementError(Exception):
    """The converted model does not load, does not run at some size, or computes something else."""


@dataclass(frozen=True)
class Observation:
    """The shapes of a source model's outputs at one set of sizes."""

    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Agreement:
    """What the comparison measured.

    Attributes:
        drift: the worst figures over all sizes and outputs.
        sizes: the sizes compared at.
        constant: the outputs that stayed the same when the inputs changed (their agreement proves little).
    """

    drift: Drift
    sizes: tuple[Mapping[str, int], ...]
    constant: tuple[str, ...]

    def __str__(self) -> str:
        places = " and ".join(_sizes(sizes) for sizes in self.sizes if sizes)
        text = f"agrees with the source: {self.drift}" + (f", at {places}" if places else "")
        if self.constant:
            text += f"; {', '.join(self.constant)} did not depend on the input, so its agreement proves little"
        return text


def agree(
    module: Module,
    reference: Callable[[Mapping[str, np.ndarray[Any, Any]]], Arrays],
    sizes: Sequence[Mapping[str, int]],
    seed: int,
) -> Agreement:
    """Compare a module under onnxruntime with its source at every given set of sizes.

    Args:
        reference: runs the source; arrays by input name in, by output name out.

    Raises:
        DisagreementError: with the numbers.
    """
    expected: dict[str, list[np.ndarray[Any, Any]]] = {}
    actual: dict[str, list[np.ndarray[Any, Any]]] = {}
    varying: set[str] = set()
    try:
        with OrtRunner(module) as runner:
            for bindings in sizes:
                earlier: Arrays = {}
                for draw in (seed, seed + 1):
                    feeds = seeded_inputs(module, bindings, draw)
                    wanted, got = reference(feeds), runner.run(feeds)
                    problem = drift(wanted, got).problem
                    if problem:
                        raise DisagreementError(f"at {_sizes(bindings)}: {problem}")
                    varying |= {name for name in earlier if not np.array_equal(earlier[name], wanted[name])}
                    earlier = wanted
                    for name in wanted:
                        expected.setdefault(name, []).append(np.ravel(wanted[name]))
                        actual.setdefault(name, []).append(np.ravel(got[name]))
    except (RunError, TargetError) as error:
        raise DisagreementError(f"onnxruntime can't run it: {error}") from error
    # all runs of an output as one: a probability has a range over several inputs, where a single one has none
    found = drift(_joined(expected), _joined(actual))
    limit = _limit(expected)
    if not found.within(limit) and not found.problem:
        limit = max(limit, min(ILL_CONDITIONED, 8 * _noise(module, reference, sizes, seed, expected)))
    if not found.within(limit):
        raise DisagreementError(f"at {' and '.join(map(_sizes, sizes))}: {found}; the limit is {limit:g}")
    return Agreement(found, tuple(sizes), tuple(sorted(set(expected) - varying)))


def observe(
    spec_example: Callable[[Mapping[str, int]], Arrays],
    reference: Callable[[Mapping[str, np.ndarray[Any, Any]]], Arrays],
    sizes: Sequence[Mapping[str, int]],
) -> list[Observation]:
    """Run the source at every set of sizes and note the shapes of its outputs."""
    observed = []
    for bindings in sizes:
        outputs = reference(spec_example(bindings))
        observed.append(Observation(dict(bindings), {name: tuple(array.shape) for name, array in outputs.items()}))
    return observed


def _noise(
    module: Module,
    reference: Callable[[Mapping[str, np.ndarray[Any, Any]]], Arrays],
    sizes: Sequence[Mapping[str, int]],
    seed: int,
    expected: Mapping[str, list[np.ndarray[Any, Any]]],
) -> float:
    """Measure how far the source's own outputs move when its inputs move by their last bits (2^-22 of each)."""
    moved: dict[str, list[np.ndarray[Any, Any]]] = {}
    for bindings in sizes:
        for draw in (seed, seed + 1):
            feeds = seeded_inputs(module, bindings, draw)
            signs = np.random.default_rng(draw)
            for name, array in feeds.items():
                if array.dtype.kind == "f":
                    noise = signs.choice((-(2.0**-22), 2.0**-22), array.shape)
                    feeds[name] = (array * (1 + noise)).astype(array.dtype)
            for name, array in reference(feeds).items():
                moved.setdefault(name, []).append(np.ravel(array))
    return drift(_joined(expected), _joined(moved)).max_rel


def _joined(runs: Mapping[str, list[np.ndarray[Any, Any]]]) -> Arrays:
    return {name: np.concatenate(arrays) for name, arrays in runs.items()}


def _limit(outputs: Mapping[str, list[np.ndarray[Any, Any]]]) -> float:
    kinds = {str(array.dtype) for arrays in outputs.values() for array in arrays}
    return HALF_TOLERANCE if kinds & {"float16", "bfloat16"} else TOLERANCE


def _sizes(bindings: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in bindings.items()) or "the declared shapes"
