"""Metrics of a recipe's Python."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.runtime.contract import DataError, MetricState
from mopt.runtime.user_code import call, described, load, running

if TYPE_CHECKING:
    from mopt.runtime.judge.metrics import PythonMetric

Array = np.ndarray[Any, Any]


def start(metric: PythonMetric) -> MetricState:
    """Begin one evaluation with what the reference names: a class with `update` and `compute`, or a function.

    Raises:
        DataError: it is neither.
    """
    found = load(metric.ref)
    if inspect.isclass(found):
        state = call(metric.ref, found, dict(metric.args))
        for method in ("update", "compute"):
            if not callable(getattr(state, method, None)):
                raise DataError(
                    f"`{metric.ref}` is a class without `{method}`; a metric is a function "
                    "(outputs, targets) -> float, or a class with `update(outputs, targets)` and `compute() -> float`"
                )
        return _ClassState(metric, state)
    if not callable(found):
        raise DataError(f"`{metric.ref}` is {described(found)}, not a function (outputs, targets) -> float")
    return _FunctionState(metric, found)


class _FunctionState:
    """Keeps everything for one call at the end."""

    def __init__(self, metric: PythonMetric, function: Any) -> None:
        self._metric, self._function = metric, function
        self._outputs: dict[str, list[Array]] = {}
        self._targets: list[Any] = []

    def update(self, outputs: Mapping[str, Array], targets: Sequence[Any]) -> None:
        """Take a batch."""
        for name, array in outputs.items():
            self._outputs.setdefault(name, []).append(array)
        self._targets += list(targets)

    def compute(self) -> float:
        """Call the author's function."""
        outputs = {name: joined(parts) for name, parts in self._outputs.items()}
        with running(self._metric.ref):
            value = self._function(outputs, self._targets, **self._metric.args)
        return as_number(value, str(self._metric.ref))


class _ClassState:
    """Hands batches on."""

    def __init__(self, metric: PythonMetric, state: Any) -> None:
        self._metric, self._state = metric, state

    def update(self, outputs: Mapping[str, Array], targets: Sequence[Any]) -> None:
        """Take a batch."""
        with running(self._metric.ref):
            self._state.update(dict(outputs), list(targets))

    def compute(self) -> float:
        """Ask for the figure."""
        with running(self._metric.ref):
            value = self._state.compute()
        return as_number(value, str(self._metric.ref))


def joined(parts: Sequence[Array]) -> Any:
    """Return batches as one array over all samples; as a list of samples' arrays where shapes differ."""
    if len({part.shape[1:] for part in parts}) == 1 and all(part.ndim for part in parts):
        return np.concatenate(parts)
    return [sample for part in parts for sample in (part if part.ndim else [part])]


def as_number(value: Any, what: str) -> float:
    """Return a figure as a Python float.

    Raises:
        DataError: it is no single number.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise DataError(f"`{what}` returned {value!r:.80}; a metric is one number")
    return float(array.reshape(-1)[0])
