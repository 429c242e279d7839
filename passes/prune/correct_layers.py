"""Layers whose kernel and biases can make up for cut inputs: convolutions and products, as rows of a regression."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.weights import Weight
from mopt.passes.prune.correct_bias import add_bias
from mopt.rewrite.attributes import integer, integers, text
from mopt.rewrite.constants import stored_tensor
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Kept = Mapping[str, Mapping[int, NDArray[np.bool_]]]
"""For every tensor that lost something, by name: axis → which of its indices stayed."""


@dataclass(frozen=True)
class Rows:
    """Features x [rows, features]; what the layer's outputs lack, and what they should be: [rows, outputs]."""

    x: Array
    missing: Array
    wanted: Array


class Layer(Protocol):
    """A layer of the smaller model that can be refitted."""

    @property
    def name(self) -> str:
        """Its node's name."""

    @property
    def features(self) -> int:
        """The number of features of its rows."""

    @property
    def smaller(self) -> tuple[str, ...]:
        """Names of the values of the smaller model that `rows` reads."""

    @property
    def original(self) -> tuple[str, ...]:
        """Names of the values of the original model that `rows` reads."""

    def rows(self, smaller: Arrays, original: Arrays, most: int, random: np.random.Generator) -> Rows:
        """Return at most so many rows of one batch, drawn at random."""

    def change(self, kernel: Array | None, bias: Array) -> None:
        """Add to the kernel [features, outputs] and to the biases [outputs]."""


def lessened(array: Array, name: str, kept: Kept) -> Array:
    """Return what stays of a tensor of the original model."""
    for axis, mask in kept.get(name, {}).items():
        # An axis that the batch is merged into repeats its mask for every sample.
        mask = np.tile(mask, array.shape[axis] // len(mask))
        array = np.compress(mask, array, axis=axis)
    return array


class Product:
    """A Conv of one group, a Gemm or a MatMul with a constant kernel.

    Args:
        module: the smaller model.
        node: the layer in it.
        weight: its kernel, which it alone reads.
        target: the value that should be what it was: the layer's output, or the sum that it is added to.
        kept: what stayed of the original's values.
    """

    def __init__(self, module: Module, node: ir.Node, weight: Weight, target: str, kept: Kept) -> None:
        self._module, self._node, self._weight, self._target, self._kept = module, node, weight, target, kept

    @property
    def name(self) -> str:
        """The node's name."""
        return self._node.name or ""

    @property
    def features(self) -> int:
        """Inputs of one output: channels of a place times places of the kernel."""
        return self._weight.size // (self._weight.shape[0] if self._transposed else self._weight.shape[1])

    @property
    def _transposed(self) -> bool:
        """Whether the kernel holds outputs first."""
        return self._node.op_type == "Conv" or bool(integer(self._node, "transB", 0))

    @property
    def smaller(self) -> tuple[str, ...]:
        """The layer's input and the target."""
        data = self._node.inputs[0]
        return (data.name if data is not None and data.name else "", self._target)

    @property
    def original(self) -> tuple[str, ...]:
        """The target."""
        return (self._target,)

    def rows(self, smaller: Arrays, original: Arrays, most: int, random: np.random.Generator) -> Rows:
        """Return rows: places of a convolution's output, or vectors of a product's."""
        data, now = (smaller[name] for name in self.smaller)
        wanted = lessened(original[self._target], self._target, self._kept)
        if self._node.op_type == "Conv":
            seen = windows(self._node, data, self._weight.shape[2:])
            wanted, now = np.moveaxis(wanted, 1, -1), np.moveaxis(now, 1, -1)
            places = wanted.shape[:-1]
            count = int(np.prod(places))
            at = np.unravel_index(some(count, most, random), places)
            x = seen[at].reshape(len(at[0]), -1)
            return Rows(x, wanted[at] - now[at], wanted[at])
        width = now.shape[-1]
        x, now, wanted = data.reshape(-1, data.shape[-1]), now.reshape(-1, width), wanted.reshape(-1, width)
        at_rows = some(len(x), most, random)
        return Rows(x[at_rows], wanted[at_rows] - now[at_rows], wanted[at_rows])

    def change(self, kernel: Array | None, bias: Array) -> None:
        """Add to kernel and biases in the module."""
        if kernel is not None:
            old = self._weight.numpy()
            added = kernel.T.reshape(old.shape) if self._transposed else kernel
            self._weight.replace((old + added).astype(old.dtype))
        if np.any(bias):
            add_bias(self._module, self._node, bias)


def product(
    module: Module, node: ir.Node, weights: Mapping[ir.Value, Weight], target: str, kept: Kept
) -> Product | None:
    """Return a node as a layer, or None where its kernel is not its own constant or its form is not one of these."""
    if node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.inputs) < 2:
        return None
    data, kernel = node.inputs[0], node.inputs[1]
    weight = weights.get(kernel) if kernel is not None else None
    if data is None or weight is None or len(weight.users) != 1 or stored_tensor(data) is not None:
        return None
    if node.op_type == "Conv":
        usable = integer(node, "group", 1) == 1 and text(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID", "")
    elif node.op_type == "Gemm":
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        usable = plain and not integer(node, "transA", 0)
    else:
        usable = len(weight.shape) == 2
    return Product(module, node, weight, target, kept) if usable else None


def some(count: int, most: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return at most so many of `count` places, drawn at random, in order."""
    if count <= most:
        return np.arange(count, dtype=np.int64)
    return np.sort(random.choice(count, most, replace=False)).astype(np.int64)


def windows(node: ir.Node, data: Array, size: Sequence[int]) -> Array:
    """Return what each place of a convolution's output sees: a view [N, places …, C, kernel …]."""
    rank = len(size)
    pads = integers(node, "pads") or [0] * (2 * rank)
    strides, dilations = integers(node, "strides") or [1] * rank, integers(node, "dilations") or [1] * rank
    if text(node, "auto_pad", "NOTSET") == "VALID":
        pads = [0] * (2 * rank)
    padded = np.pad(data, [(0, 0), (0, 0), *((pads[k], pads[k + rank]) for k in range(rank))])
    reach = [(size[k] - 1) * dilations[k] + 1 for k in range(rank)]
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    every = itertools.chain((slice(None), slice(None)), (slice(None, None, s) for s in strides))
    view = view[(*every, *(slice(None, None, d) for d in dilations))]
    return np.asarray(np.moveaxis(view, 1, 1 + rank))
