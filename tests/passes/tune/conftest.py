"""A small convolutional network over scikit-learn's digits as a module, and what the compiler offers a pass."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import onnx.parser
import pytest
from mopt.ir import from_proto
from mopt.ir.provenance import stamp_source
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
pytest.importorskip("accelerate", reason="needs the extra `torch`")

from mopt.recipes.digits.data import digits  # noqa: E402
from mopt.runtime.data.splits import as_split  # noqa: E402
from mopt.runtime.judge.losses import CrossEntropy  # noqa: E402
from mopt.runtime.judge.metrics import Accuracy  # noqa: E402

BODY = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 1, 8, 8] image) => (float[N, 10] logits) {
    [n1] c1 = Conv <pads: ints = [1, 1, 1, 1]> (image, conv1)
    [n2] b1 = BatchNormalization (c1, scale, shift, mean, var)
    [n3] r1 = Relu (b1)
    [n4] c2 = Conv <pads: ints = [1, 1, 1, 1], strides: ints = [2, 2]> (r1, conv2, bias2)
    [n5] r2 = Relu (c2)
    [n6] f = Flatten (r2)
    [n7] logits = Gemm <transB: int = 1> (f, head, head_bias)
}
"""


def _weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (12, 1, 3, 3), "conv2": (16, 12, 3, 3), "head": (10, 256)}
    found = {name: rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape) for name, shape in shapes.items()}
    found |= {"scale": np.ones(12), "shift": np.zeros(12), "mean": np.zeros(12), "var": np.ones(12)}
    found |= {"bias2": np.zeros(16), "head_bias": np.zeros(10)}
    return {name: array.astype(np.float32) for name, array in found.items()}


def _module(seed=0):
    model = onnx.parser.parse_model(BODY)
    for name, array in _weights(seed).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    module = from_proto(model)
    stamp_source(module)
    return module


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def module():
    return _module()


SPLITS = digits()


@pytest.fixture
def context(tmp_path):
    """`context(promises=…, losses={…})`."""

    def make(promises=(), losses=None, seed=0, train=None):
        train = SPLITS["train"][:640] if train is None else train
        splits = {"train": train, "held": SPLITS["train"][1000:1200], "test": SPLITS["test"]}
        known = {"cross_entropy": CrossEntropy(), **(losses or {})}
        told = []
        bar = SimpleNamespace(advance=lambda steps=1: None, describe=told.append)
        return SimpleNamespace(
            seed=seed,
            bindings={},
            scratch=tmp_path,
            checkpoints=tmp_path / "checkpoints",
            promises=tuple(promises),
            told=told,
            loss=lambda reference: known[reference.name],
            metric=lambda reference: (Accuracy(), "max"),
            split=lambda reference: as_split(splits[reference.split], str(reference)),
            progress=lambda description, total=None: contextlib.nullcontext(bar),
        )

    return make


@pytest.fixture
def accuracy():
    """Of a module on digits held out, by onnxruntime."""
    from mopt.runtime.judge.evaluate import evaluate
    from mopt.runtime.ort import OrtRunner

    def measure(module):
        split = as_split(SPLITS["test"], "scans.test")
        return evaluate(OrtRunner(module), split, {"accuracy": Accuracy()}, 32, module=module)["accuracy"]

    return measure


@pytest.fixture
def array_of():
    """A weight's array by name."""
    return lambda module, name: next(weight.numpy().copy() for weight in module.weights() if weight.name == name)
