"""LSTM, GRU and RNN as linear layers: a gate's argument is W·x + R·h, and both can make up for what was cut.

The hidden states of the original model stand in for those of the smaller one (teacher forcing): what a gate should
have been given is then known at every step without running the recurrence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling.linear import GATES
from mopt.ir import Module
from mopt.ir.weights import Weight
from mopt.passes.prune.correct_layers import Array, Arrays, Kept, Rows
from mopt.rewrite.attributes import integer, text
from mopt.rewrite.constants import constant_array


@dataclass(frozen=True)
class _Kernels:
    """Kernels of a recurrent node: inputs [D, G·H, I], states [D, G·H, H], biases [D, 2·G·H]."""

    inputs: Weight
    states: Weight
    biases: Weight


class Direction:
    """One direction of a recurrent layer.

    Args:
        parts: what the features are: `("inputs", "states")`, or one of them (see `directions`).
    """

    def __init__(
        self, node: ir.Node, own: _Kernels, old: _Kernels, number: int, parts: tuple[str, ...], names: tuple[str, str],
        kept: Kept,
    ) -> None:  # fmt: skip
        self._node, self._own, self._old, self._number, self._parts = node, own, old, number, parts
        self._data, self._states = names
        self._kept = kept

    @property
    def name(self) -> str:
        """The node's name."""
        return self._node.name or ""

    @property
    def features(self) -> int:
        """Inputs and states, as far as they are fitted."""
        return sum(int(getattr(self._own, part).shape[2]) for part in self._parts)

    @property
    def smaller(self) -> tuple[str, ...]:
        """The layer's input."""
        return (self._data,)

    @property
    def original(self) -> tuple[str, ...]:
        """The layer's input and its states."""
        return (self._data, self._states)

    def rows(self, smaller: Arrays, original: Arrays, most: int, random: np.random.Generator) -> Rows:
        """Return rows: steps of all samples."""
        number = self._number
        steps = original[self._states][:, number]
        before = np.zeros_like(steps)
        if text(self._node, "direction", "forward") == "reverse" or number == 1:
            before[:-1] = steps[1:]
        else:
            before[1:] = steps[:-1]
        before, data = before.reshape(-1, before.shape[-1]), original[self._data]
        now = smaller[self._data].reshape(-1, smaller[self._data].shape[-1])
        stays = before
        mask = self._kept.get(self._states, {}).get(3)
        if mask is not None:
            stays = before[:, mask]
        wants, gives, features = [], [], []
        for part, old, new in (("inputs", data.reshape(-1, data.shape[-1]), now), ("states", before, stays)):
            if part in self._parts:
                wants.append(old @ self._kernel(self._old, part).T)
                gives.append(new @ self._kernel(self._own, part).T)
                features.append(new)
        wanted: Array = np.sum(wants, axis=0)
        given: Array = np.sum(gives, axis=0)
        gates = self._kept.get(self._own.inputs.value.name or "", {}).get(1)
        if gates is not None:
            wanted = wanted[:, gates]
        x = np.concatenate(features, axis=1)
        at = np.arange(len(x)) if len(x) <= most else np.sort(random.choice(len(x), most, replace=False))
        return Rows(x[at], (wanted - given)[at], wanted[at])

    def change(self, kernel: Array | None, bias: Array) -> None:
        """Add to the kernels and to the biases of the inputs."""
        if kernel is not None:
            start = 0
            for part in self._parts:
                weight = getattr(self._own, part)
                array = weight.numpy().copy()
                width = array.shape[2]
                array[self._number] += kernel[start : start + width].T.astype(array.dtype)
                weight.replace(array)
                start += width
        if np.any(bias):
            biases = self._own.biases.numpy().copy()
            # GRU adds the second half inside the reset gate, where the states' part belongs.
            place = len(bias) if self._parts == ("states",) else 0
            biases[self._number, place : place + len(bias)] += bias.astype(biases.dtype)
            self._own.biases.replace(biases)

    def _kernel(self, kernels: _Kernels, part: str) -> Array:
        array: Array = getattr(kernels, part).numpy()[self._number]
        return array


def directions(
    node: ir.Node, weights: Mapping[ir.Value, Weight], original: Module, twin: ir.Node | None, kept: Kept
) -> list[Direction]:
    """Return a recurrent node's directions as layers; none where its form is not one of these.

    An LSTM's and an RNN's gates are linear in input and state together. A GRU with `linear_before_reset` scales the
    state's part of one gate by another gate, so that both parts are fitted by themselves; without it only the input's.
    """
    own = _kernels(node, weights)
    if own is None or twin is None or integer(node, "layout", 0) or _given(node, 4) or _started(node):
        return []
    old = _kernels(twin, {weight.value: weight for weight in original.weights()})
    data, states = node.inputs[0], node.outputs[0]
    if (
        old is None
        or data is None
        or not data.name
        or not states.name
        or not (states.uses() or states.is_graph_output())
    ):
        return []
    parts: list[tuple[str, ...]] = [("inputs", "states")]
    if node.op_type == "GRU":
        parts = [("inputs",), ("states",)] if integer(node, "linear_before_reset", 0) else [("inputs",)]
    count = own.inputs.shape[0]
    return [
        Direction(node, own, old, number, part, (data.name, states.name), kept)
        for number in range(count)
        for part in parts
    ]


def _kernels(node: ir.Node, weights: Mapping[ir.Value, Weight]) -> _Kernels | None:
    if node.op_type not in GATES or node.domain != "" or len(node.inputs) < 4:
        return None
    found = [weights.get(value) if value is not None else None for value in node.inputs[1:4]]
    first, second, third = found
    if first is None or second is None or third is None or any(len(w.users) != 1 for w in (first, second, third)):
        return None
    return _Kernels(first, second, third)


def _given(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _started(node: ir.Node) -> bool:
    """Say whether the first state may be other than zero."""
    if not _given(node, 5):
        return False
    start = constant_array(node.inputs[5])
    return start is None or bool(np.any(start))
