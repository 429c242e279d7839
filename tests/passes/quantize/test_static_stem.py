"""`quantize.static`: how far from its inputs a network stays float because bytes are no faster there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto
from mopt.passes.quantize.static_stem import stem
from mopt.passes.quantize.static_units import find_units
from onnx import numpy_helper

RANDOM = np.random.default_rng(0)


def network(first: tuple[int, int], size: int, behind: str = "r = Relu(a)", deep: int = 256) -> tuple[Module, Any]:
    """A convolution from few channels at full resolution, a narrow one, and a deep one at an eighth."""
    inputs, outputs = first
    text = (
        f"m (float[1, {inputs}, {size}, {size}] x) => (float[1, {deep}, p, q] y) {{"
        f" a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w) {behind}"
        " c = Conv<strides = [4, 4]>(r, v) d = Relu(c) e = Conv(d, u) f = Relu(e) y = Conv(f, t) }"
    )
    weights = {
        "w": (outputs, inputs, 3, 3), "v": (deep, outputs, 1, 1), "u": (deep, deep, 3, 3), "t": (deep, deep, 1, 1),
    }  # fmt: skip
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]>{text}')
    proto.graph.initializer.extend(
        numpy_helper.from_array(RANDOM.normal(size=shape).astype(np.float32), name) for name, shape in weights.items()
    )
    loaded = from_proto(proto)
    loaded.infer_shapes()
    values = [*loaded.graph.inputs, *(value for node in loaded.graph for value in node.outputs)]
    shapes = {
        str(value.name): tuple(int(dim) if isinstance(dim, int) else 1 for dim in value.shape or ()) for value in values
    }
    return loaded, shapes


def left(found: tuple[Module, Any], regrid: bool = True) -> list[str]:
    """The operators that stay float."""
    loaded, shapes = found
    units = find_units(loaded, regrid=regrid)[0]
    names = stem(units, shapes)
    assert names == tuple(unit.name for unit in units[: len(names)])
    return [unit.node.op_type for unit in units[: len(names)]]


def test_an_image_of_three_channels_is_read_in_float() -> None:
    assert left(network((3, 16), 128)) == ["Conv"]


def test_a_hard_swish_goes_with_the_convolution_it_follows() -> None:
    swish = "h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(a) r = Mul(a, h)"
    assert left(network((3, 16), 128, swish)) == ["Conv", "Mul"]


def test_many_channels_are_on_bytes_from_the_start() -> None:
    assert left(network((96, 96), 32)) == []


def test_weights_that_would_make_the_file_larger_are_on_bytes() -> None:
    assert left(network((3, 16), 128, deep=32)) == []


@pytest.mark.parametrize("size", [16, 256])
def test_it_ends_before_the_deep_layers(size: int) -> None:
    assert len(left(network((3, 16), size))) <= 1
