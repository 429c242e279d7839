"""A small network over scikit-learn's digits, trained by `tune`, and what the compiler offers a pass on it."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx.parser
from mopt.ir import from_proto
from mopt.ir.provenance import stamp_source
from mopt.passes.tune.tune import Tune
from mopt.recipes.digits.data import digits
from mopt.runtime.data.splits import as_split
from mopt.runtime.judge.evaluate import evaluate
from mopt.runtime.judge.losses import CrossEntropy
from mopt.runtime.judge.metrics import Accuracy
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, LossRef
from onnx import numpy_helper

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
SHAPES = {"conv1": (12, 1, 3, 3), "conv2": (16, 12, 3, 3), "head": (10, 256)}
SPLITS = digits()
TRAINING = {"data": DataRef("scans", "train"), "loss": LossRef("cross_entropy")}


def untrained():
    """The network with random weights."""
    random = np.random.default_rng(0)
    found = {name: random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape) for name, shape in SHAPES.items()}
    found |= {"scale": np.ones(12), "shift": np.zeros(12), "mean": np.zeros(12), "var": np.ones(12)}
    found |= {"bias2": np.zeros(16), "head_bias": np.zeros(10)}
    model = onnx.parser.parse_model(BODY)
    for name, array in found.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    module = from_proto(model)
    stamp_source(module)
    return module


def context_in(folder, seed=0, progress=None, train=None):
    """What the compiler offers; `progress` is called with the title of every bar."""
    bar = SimpleNamespace(advance=lambda steps=1: None, describe=lambda text: None)

    def opened(title, total=None):
        if progress is not None:
            progress(title)
        return contextlib.nullcontext(bar)

    splits = {"train": SPLITS["train"][:640] if train is None else train, "held": SPLITS["train"][1000:1200]}
    return SimpleNamespace(
        seed=seed,
        bindings={},
        scratch=folder,
        checkpoints=folder / "checkpoints",
        promises=(),
        loss=lambda reference: CrossEntropy(),
        metric=lambda reference: (Accuracy(), "max"),
        split=lambda reference: as_split(splits[reference.split], str(reference)),
        progress=opened,
    )


@functools.cache
def _trained():
    return Tune(**TRAINING, epochs=5, rate=3e-3).run(untrained(), context_in(Path())).module


def trained():
    """A copy of the network after five epochs."""
    return _trained().clone()


def accuracy(module):
    """Of a module on digits held out, by onnxruntime."""
    split = as_split(SPLITS["test"], "scans.test")
    return evaluate(OrtRunner(module), split, {"accuracy": Accuracy()}, 32, module=module)["accuracy"]
