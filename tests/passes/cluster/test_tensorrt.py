"""What TensorRT gets of clustered weights: dense ones, or int8 ones with their scales; never a look-up."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from mopt.analysis.codebook import codebooks
from mopt.ir import Module, from_proto
from mopt.passes.cluster.kmeans import KMeans
from mopt.passes.quantize.static import Static
from mopt.plugin import default_registry
from mopt.runtime.data.splits import Samples
from mopt.runtime.ort import OrtRunner
from mopt.runtime.trt.library import find
from mopt.runtime.trt.target import TrtTarget
from mopt.values import DataRef
from onnx import numpy_helper

TARGET = TrtTarget(library="tensorrt_rtx", capabilities=("sm89",), profile={"N": (4,)})
SHAPES = {"first": (32, 16, 3, 3), "second": (32, 32, 3, 3), "last": (32, 64)}


def context() -> Any:
    images = np.random.default_rng(1).random((8, 16, 6, 6), np.float32)
    split = Samples([{"x": image} for image in images], 8, "calib")
    bar = SimpleNamespace(advance=lambda *_: None, describe=lambda *_: None)
    return SimpleNamespace(
        seed=0, bindings={}, scratch=Path(), progress=lambda *_, **__: nullcontext(bar), split=lambda _: split
    )


def network() -> Module:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,16,6,6] x) => (float[N,64] y) '
        "{ a = Conv(x, first) b = Relu(a) c = Conv(b, second) d = Relu(c) e = GlobalAveragePool(d) f = Flatten(e) "
        "y = MatMul(f, last) }"
    )
    random = np.random.default_rng(0)
    drawn = {name: random.normal(size=shape).astype(np.float32) / 8 for name, shape in SHAPES.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in drawn.items())
    return from_proto(proto)


def lowered(module: Module) -> Module:
    """The graph as the target gets it."""
    for name, options in TARGET.prepare():
        module = default_registry().get("passes", name)(**options).run(module, context()).module
    return module


@pytest.mark.parametrize("options", [{"clusters": 256}, {"clusters": 16}, {"clusters": 16, "channels": 1}], ids=str)
@pytest.mark.parametrize("quantised", [False, True], ids=["float", "int8"])
def test_weights_are_dense_or_int8(options: dict[str, int], quantised: bool, tmp_path: Path) -> None:
    module = KMeans(min_elements=512, **options).run(network(), context()).module
    if quantised:
        module = Static(data=DataRef("d", "calib")).run(module, context()).module
    assert bool(list(codebooks(module))) == (not quantised or options["clusters"] == 16)
    feeds = {"x": np.random.default_rng(2).random((4, 16, 6, 6), np.float32)}
    (expected,) = OrtRunner(module.clone()).run(feeds).values()
    given = lowered(module)
    assert not list(codebooks(given))
    assert not {node.op_type for node in given.nodes()} & {"Gather", "GatherElements"}
    kinds = {weight.dtype for weight in given.weights() if weight.size >= 512}
    assert kinds == ({"i8"} if quantised else {"f32"})
    (got,) = OrtRunner(given).run(feeds).values()
    np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max() if quantised else 1e-5)
    if options == {"clusters": 16} and quantised and find("tensorrt_rtx") is not None:
        assert TARGET.emit(given, tmp_path).bytes > 0
