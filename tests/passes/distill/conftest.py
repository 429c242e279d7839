"""A teacher trained on scikit-learn's digits, narrower students, and what the compiler offers a pass."""

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

from mopt.passes.tune.tune import Tune  # noqa: E402
from mopt.recipes.digits.data import digits  # noqa: E402
from mopt.runtime.data.splits import as_split  # noqa: E402
from mopt.runtime.judge.losses import CrossEntropy  # noqa: E402
from mopt.runtime.judge.metrics import Accuracy  # noqa: E402
from mopt.values import DataRef, LossRef  # noqa: E402

BODY = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 1, 8, 8] INPUT) => (float[N, 10] OUTPUT) {
    [n1] c1 = Conv <pads: ints = [1, 1, 1, 1]> (INPUT, conv1)
    [n2] b1 = BatchNormalization (c1, scale, shift, mean, var)
    [n3] r1 = Relu (b1)
    [n4] c2 = Conv <pads: ints = [1, 1, 1, 1], strides: ints = [2, 2]> (r1, conv2, bias2)
    [n5] r2 = Relu (c2)
    [n6] f = Flatten (r2)
    [n7] OUTPUT = Gemm <transB: int = 1> (f, head, head_bias)
}
"""


def network(widths=(12, 16), seed=0, names=("image", "logits")):
    first, second = widths
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (first, 1, 3, 3), "conv2": (second, first, 3, 3), "head": (10, second * 16)}
    arrays = {name: rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape) for name, shape in shapes.items()}
    arrays |= {"scale": np.ones(first), "shift": np.zeros(first), "mean": np.zeros(first), "var": np.ones(first)}
    arrays |= {"bias2": np.zeros(second), "head_bias": np.zeros(10)}
    model = onnx.parser.parse_model(BODY.replace("INPUT", names[0]).replace("OUTPUT", names[1]))
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    module = from_proto(model)
    stamp_source(module)
    return module


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def student():
    """`student(widths, seed, names)`: random weights."""
    return lambda widths=(4, 6), seed=1, names=("image", "logits"): network(widths, seed, names)


SPLITS = digits()


def unlabelled(samples):
    return [{key: value for key, value in sample.items() if key != "target"} for sample in samples]


def _context(folder, teachers, train=None, seed=0, promises=()):
    train = SPLITS["train"][:640] if train is None else train
    splits = {"train": train, "held": SPLITS["train"][1000:1200], "all": SPLITS["train"][:1200], "test": SPLITS["test"]}
    bar = SimpleNamespace(advance=lambda steps=1: None, describe=lambda text: None)
    return SimpleNamespace(
        seed=seed,
        bindings={},
        scratch=folder,
        checkpoints=folder / "checkpoints",
        promises=tuple(promises),
        loss=lambda reference: CrossEntropy(),
        metric=lambda reference: (Accuracy(), "max"),
        split=lambda reference: as_split(splits[reference.split], str(reference)),
        module=lambda name: teachers[name].clone(),
        recordings=lambda model, data: folder / "recordings" / model.name / str(data),
        progress=lambda description, total=None: contextlib.nullcontext(bar),
    )


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A network that knows digits; treat it as read-only."""
    torch.set_num_threads(1)
    module = network()
    operation = Tune(DataRef("scans", "all"), LossRef("cross_entropy"), epochs=8, rate=5e-3, device="cpu")
    return operation.run(module, _context(tmp_path_factory.mktemp("teacher"), {})).module


@pytest.fixture
def context(tmp_path, teacher):
    """`context(train=…, teachers={…})`; the teacher is `large`."""
    return lambda teachers=None, **more: _context(tmp_path, {"large": teacher, **(teachers or {})}, **more)


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
def scans():
    """The training samples."""
    return SPLITS["train"]


@pytest.fixture
def without_labels():
    return unlabelled


@pytest.fixture
def array_of():
    """A weight's array by name."""
    return lambda module, name: next(weight.numpy().copy() for weight in module.weights() if weight.name == name)
