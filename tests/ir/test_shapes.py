"""Inference starts from the inputs; what a file claims beyond that is believed only where nothing contradicts it."""

from __future__ import annotations

import mopt.ir
import numpy as np
import onnx
import pytest
from mopt.ir import Module
from mopt.ir.bare import bare_proto
from onnx import TensorProto, helper, numpy_helper


def model(text: str, **stored: tuple[int | str | None, ...]) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    for name, shape in stored.items():
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        place = next((o for o in proto.graph.output if o.name == name), None)
        if place is not None:
            place.CopyFrom(info)
        else:
            proto.graph.value_info.append(info)
    return proto


def shape_of(module: Module, name: str) -> tuple[int | str | None, ...]:
    for node in module.nodes():
        for output in node.outputs:
            if output.name == name:
                return mopt.ir.module.dims(output.shape)
    raise KeyError(name)


CHAIN = """
<ir_version: 8, opset_import: ["" : 17, "com.x" : 1]>
g (float[N, 4] x) => (float y) <float[4, 8] w = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}>
{ t = MatMul (x, w)
  y = Relu (t) }
"""


def test_stale_shapes_are_dropped() -> None:
    """As `torch.onnx` leaves them behind: 768 where the graph says 2."""
    module = mopt.ir.from_proto(model(CHAIN, t=("N", 768), y=("N", 768)), infer=False)
    assert shape_of(module, "t") == ("N", 768)
    found = module.infer_shapes()
    assert found.changed
    assert found.contradictions == (
        "`t`: stored [N,768], inferred [N,8]",
        "`y`: stored [N,768], inferred [N,8]",
    )
    assert shape_of(module, "t") == ("N", 8)
    assert module.outputs[0].shape == ("N", 8)
    assert not module.infer_shapes().changed
    assert mopt.ir.verify(module) == []


def test_stale_ranks_are_dropped() -> None:
    module = mopt.ir.from_proto(model(CHAIN, t=("N", 1, 8)))
    assert shape_of(module, "t") == ("N", 8)


def test_names_of_the_outputs_are_kept_where_nothing_speaks_against_them() -> None:
    module = mopt.ir.from_proto(model(CHAIN, y=("batch", None)))
    assert module.outputs[0].shape == ("batch", 8)


def test_stored_shapes_of_unknown_operators_are_believed() -> None:
    text = CHAIN.replace("y = Relu (t)", "u = com.x.Odd (t)\n y = Relu (u)")
    module = mopt.ir.from_proto(model(text, u=("N", 5)))
    assert shape_of(module, "u") == ("N", 5)
    assert module.outputs[0].shape == ("N", 5)


def test_a_stored_size_survives_where_inference_knows_nothing() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x, int64[1] k) => (float y) { t, i = TopK <axis = 1> (x, k)
      y = Relu (t) }
    """
    assert shape_of(mopt.ir.from_proto(model(text)), "t") == ("unk__0", "unk__1")
    assert shape_of(mopt.ir.from_proto(model(text, t=("N", 3))), "t") == ("N", 3)


def test_data_propagation() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4, 6] x) => (float y)
    <int64[1] zero = {0}, int64[1] one = {1}, int64[1] rest = {24}>
    { s = Shape (x)
      n = Gather (s, zero)
      t = Concat <axis = 0> (n, rest)
      y = Reshape (x, t) }
    """
    assert mopt.ir.from_proto(model(text)).outputs[0].shape == ("N", 24)


def test_values_in_branches_are_inferred() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x, bool c) => (float[N, 4] y) {
       y = If (c) <then_branch = t () => (float r) { q = Neg (x)
                                                     r = Relu (q) }, else_branch = e () => (float s) { s = Abs (x) }>
    }
    """
    assert shape_of(mopt.ir.from_proto(model(text)), "q") == ("N", 4)


def test_constants_outside_of_a_branch_are_seen_inside() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x, bool c) => (float y) <int64[4] pads = {0, 1, 0, 2}> {
       s = Constant <value = int64[2] {-1, 1}> ()
       y = If (c) <then_branch = t () => (float r) { q = Pad (x, pads)
                                                     r = Reshape (q, s) }, else_branch = e () => (float r) {
                   r = If (c) <then_branch = t () => (float u) { u = Pad (x, pads) },
                               else_branch = e () => (float v) { v = Reshape (x, s) }> }>
    }
    """
    module = mopt.ir.from_proto(model(text))
    assert shape_of(module, "q") == ("N", 7)
    assert shape_of(module, "u") == ("N", 7)
    assert shape_of(module, "v")[1] == 1
    assert mopt.ir.verify(module) == []


def test_a_model_that_inference_refuses_is_loaded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no idea\nsecond line")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", refuse)
    module = mopt.ir.from_proto(model(CHAIN, t=("N", 768)))
    assert shape_of(module, "t") == ("N", 768)
    assert module.infer_shapes().failure == "no idea"
    assert [violation.invariant for violation in mopt.ir.verify(module)] == ["inferred"]


def test_inference_needs_no_weights() -> None:
    proto = model(CHAIN)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 640), np.float32), "w"))
    module = mopt.ir.from_proto(proto)
    assert module.outputs[0].shape == ("N", 640)
    assert bare_proto(module).ByteSize() < 500


def test_generated_names_are_not_kept_beyond_one_inference() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x, int64[1] k) => (float y) { t, i = TopK <axis = 1> (x, k)
      y = Relu (t) }
    """
    module = mopt.ir.from_proto(model(text))
    once = mopt.ir.print_module(module)
    assert "unk__0" in once
    module.infer_shapes()
    assert mopt.ir.print_module(module) == once
    assert module.outputs[0].shape == (None, None)
