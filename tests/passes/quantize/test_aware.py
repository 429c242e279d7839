"""`quantize.aware`: what it reaches, agreement with onnxruntime, bits, determinism, teachers, what it refuses."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx.parser
import pytest
from mopt.build.contracts import ContractError, check_promises
from mopt.check import check as check_recipe
from mopt.ir import from_proto, load, to_proto, verify
from mopt.ir.provenance import stamp_source
from mopt.passes.contract import PassError
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
pytest.importorskip("accelerate", reason="needs the extra `torch`")

from mopt.passes.quantize.aware import Aware  # noqa: E402
from mopt.passes.quantize.static import Static  # noqa: E402
from mopt.passes.simplify.rules import Rules  # noqa: E402
from mopt.recipes.digits import model as digit_model  # noqa: E402
from mopt.recipes.digits.data import digits  # noqa: E402
from mopt.runtime.contract import DataError  # noqa: E402
from mopt.runtime.data.splits import as_split  # noqa: E402
from mopt.runtime.judge.evaluate import evaluate  # noqa: E402
from mopt.runtime.judge.losses import CrossEntropy  # noqa: E402
from mopt.runtime.judge.metrics import Accuracy  # noqa: E402
from mopt.runtime.ort import OrtRunner  # noqa: E402
from mopt.runtime.trainable.runner import TrainableModule  # noqa: E402
from mopt.values import DataRef, LossRef, MetricRef, ModelRef  # noqa: E402

SPLITS = digits()
TRAIN, LABELS, PARENT = DataRef("scans", "train"), LossRef("cross_entropy"), ModelRef("parent")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The digits network as its weights are, batch normalisations and all."""
    from safetensors.torch import load_file

    network = digit_model.DigitNet()
    network.load_state_dict(load_file(Path(digit_model.__file__).with_name("weights.safetensors")), strict=False)
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(2, 1, 8, 8),), path, input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "N"}}, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )  # fmt: skip
    module = load(path)
    for node in list(module.graph):
        if node.op_type == "BatchNormalization":
            node.attributes.pop("training_mode", None)
            node.resize_outputs(1)
    stamp_source(module)
    return module


@pytest.fixture
def context(tmp_path):
    bar = SimpleNamespace(advance=lambda steps=1: None, describe=lambda text: None)

    def make(train=None, seed=0, promises=(), teacher=None):
        splits = {**SPLITS, "first": SPLITS["train"][:32], **({} if train is None else {"train": train})}
        return SimpleNamespace(
            seed=seed, bindings={}, scratch=tmp_path, checkpoints=tmp_path / "checkpoints", promises=promises,
            module=lambda name: teacher, loss=lambda reference: CrossEntropy(),
            metric=lambda reference: (Accuracy(), "max"),
            split=lambda reference: as_split(splits[reference.split], str(reference)),
            progress=lambda description, total=None: contextlib.nullcontext(bar),
        )  # fmt: skip

    return make


def accuracy(module):
    split = as_split(SPLITS["test"], "scans.test")
    return evaluate(OrtRunner(module), split, {"accuracy": Accuracy()}, 60, module=module)["accuracy"]


def aware(module, context, **options):
    given = {"loss": LABELS, "device": "cpu", "rate": 1e-3, "batch": 48, "samples": 32, **options}
    return Aware(TRAIN, **given).run(module.clone(), context)


def static(module, context, **options):
    """The start of training."""
    return aware(module, context, steps=1, rate=0.0, **options)


def drift(module, count=120):
    """Return the largest difference of the runner's and onnxruntime's outputs, and the outputs' range."""
    feeds = {"image": np.stack([sample["image"] for sample in SPLITS["test"][:count]])}
    one = TrainableModule(module, trainable=False).eval().run(feeds)["logits"]
    other = OrtRunner(module).run(feeds)["logits"]
    return float(np.abs(one - other).max()), float(np.ptp(other))


@pytest.mark.parametrize("method", ["lsq", "pact", "minmax"])
def test_eight_bits_cost_nothing(trained, context, method):
    before = accuracy(trained)
    assert any(node.op_type == "BatchNormalization" for node in trained.nodes())
    result = aware(trained, context(), method=method, steps=15)
    assert not verify(result.module)
    assert accuracy(result.module) >= before - 0.002
    operators = [node.op_type for node in result.module.nodes()]
    assert "BatchNormalization" not in operators
    assert operators.count("QuantizeLinear") > 8
    assert "Clip" not in operators
    apart, width = drift(result.module)
    assert apart < width / 255
    assert len(to_proto(result.module).SerializeToString()) < 0.4 * len(to_proto(trained).SerializeToString())


@pytest.mark.parametrize(("method", "even"), [("lsq", False), ("pact", False), ("minmax", False), ("lsq", True)])
def test_it_starts_from_the_ranges_of_static_quantisation(trained, context, method, even):
    """What nothing was trained of is on `quantize.static`'s grids for activations; `minmax` on the extremes."""
    calibration = "minmax" if method == "minmax" else "mse"
    given = {"method": calibration, "bias_correction": False, "equalize": even}
    folded = Rules().run(trained.clone(), context()).module
    expected = Static(DataRef("scans", "first"), **given).run(folded.clone(), context())
    found = static(folded, context(), method=method, calibration=calibration, momentum_of_ranges=1.0, equalize=even)
    assert any("equalised the channels" in note.message for note in found.notes) == even
    grids = []
    for module in (expected.module, found.module):
        weights = {weight.value: weight for weight in module.weights()}
        grids.append({
            node.inputs[0].name: (float(weights[node.inputs[1]].numpy()), int(weights[node.inputs[2]].numpy()))
            for node in module.nodes() if node.op_type == "QuantizeLinear"
        })  # fmt: skip
    assert len(grids[0]) > 5
    assert grids[0].keys() == grids[1].keys()
    for name, (scale, zero) in grids[0].items():
        assert grids[1][name][0] == pytest.approx(scale, rel=1e-5)
        assert grids[1][name][1] == zero


def test_few_bits_are_far_above_static(trained, context):
    """Two bits, where static rounding has nothing left of these digits; and four on a network that needs them."""
    bits = {"weights": 2, "activations": 2}
    assert accuracy(static(trained, context(), **bits).module) < 0.6
    result = aware(trained, context(), steps=40, **bits)
    assert accuracy(result.module) >= accuracy(trained) - 0.03
    assert "2 bits" in result.notes[0].message
    assert "each in a byte" in result.notes[0].message


@pytest.mark.parametrize("method", ["lsq", "pact", "minmax"])
def test_integers_stay_within_the_bits(trained, context, method):
    result = aware(trained, context(), steps=4, method=method, weights=3, activations=4, edges=5)
    module = result.module
    most = {}
    for weight in module.weights():
        if weight.tensor.dtype.name == "INT8" and weight.shape and weight.numpy().any():
            array = weight.numpy().astype(int)
            most[weight.name] = (array.min(), array.max())
    assert any(low == -4 or high == 3 for low, high in most.values())
    assert sum(low < -4 or high > 3 for low, high in most.values()) <= 2, "the first and the last layer's alone"
    assert all(low >= -16 and high <= 15 for low, high in most.values())
    limited = [node for node in module.nodes() if node.op_type == "Clip"]
    assert limited
    watched = module.clone()
    names = [node.outputs[0].name for node in watched.nodes() if node.op_type == "Clip"]
    for node in watched.nodes():
        if node.op_type == "Clip":
            watched.graph.outputs.append(node.outputs[0])
    found = OrtRunner(watched).run({"image": np.stack([sample["image"] for sample in SPLITS["test"][:60]])})
    assert max(int(found[name].max()) for name in names) in (15, 31)
    apart, width = drift(module)
    assert apart < width / 15


def test_half_bytes_are_the_same_numbers_in_half_the_file(trained, context):
    whole = aware(trained, context(), steps=4, weights=4, activations=4)
    half = aware(trained, context(), steps=4, weights=4, activations=4, storage="int4")
    assert "in half a byte" in half.notes[0].message
    assert half.module.opset >= 21
    sizes = [len(to_proto(result.module).SerializeToString()) for result in (whole, half)]
    assert sizes[1] < 0.7 * sizes[0]
    feeds = {"image": np.stack([sample["image"] for sample in SPLITS["test"][:100]])}
    one, other = (OrtRunner(result.module).run(feeds)["logits"] for result in (whole, half))
    assert np.mean(one.argmax(1) == other.argmax(1)) > 0.98


def test_two_runs_are_the_same_bytes(trained, context):
    one, other = (aware(trained, context(), steps=6, weights=4, activations=4).module for _ in range(2))
    assert to_proto(one).SerializeToString() == to_proto(other).SerializeToString()
    third = aware(trained, context(seed=1), steps=6, weights=4, activations=4).module
    assert to_proto(one).SerializeToString() != to_proto(third).SerializeToString()


def test_the_parent_teaches_without_labels(trained, context):
    images = [{"image": sample["image"]} for sample in SPLITS["train"]]
    bits = {"weights": 2, "activations": 2, "loss": None, "teacher": PARENT}
    result = aware(trained, context(train=images, teacher=trained), steps=30, **bits)
    assert accuracy(result.module) > 0.9
    both = aware(trained, context(teacher=trained), steps=2, teacher=PARENT, alpha=0.5, match="mse")
    assert both.modified


def test_grids_move_and_are_written(trained, context):
    scales = []
    for rate in (0.0, 1e-2):
        module = aware(trained, context(), steps=6, rate=rate).module
        weights = {weight.value: weight for weight in module.weights()}
        scales.append(
            [weights[node.inputs[1]].numpy() for node in module.nodes() if node.op_type == "QuantizeLinear"]
        )  # fmt: skip
        for node in module.nodes():  # what is read back is read on the grid it was written on
            if node.op_type == "DequantizeLinear" and node.inputs[0].producer() is not None:
                q = node.inputs[0].producer()
                assert weights[q.inputs[1]].numpy() == weights[node.inputs[1]].numpy()
    assert len(scales[0]) == len(scales[1])
    assert sum(not np.array_equal(a, b) for a, b in zip(*scales, strict=True)) >= 8
    for node in module.nodes():  # and a bias counts in steps of input times weight, as integer kernels take it
        if node.op_type == "Conv" and node.inputs[0].producer() is not None:
            x, w, b = (value.producer() for value in node.inputs)
            if b is not None and b.op_type == "DequantizeLinear":
                product = weights[x.inputs[1]].numpy() * weights[w.inputs[1]].numpy()
                np.testing.assert_allclose(weights[b.inputs[1]].numpy(), product, rtol=1e-5)


def test_pruned_weights_stay_zero(trained, context):
    from mopt.passes.prune.magnitude import Magnitude
    from mopt.values import Ratio

    before = Rules().run(trained.clone(), context()).module
    operation = Magnitude(Ratio(0.5))
    after = operation.run(before.clone(), context()).module
    promises = operation.promises(before, after)
    result = aware(after, context(promises=promises), steps=10, rate=1e-2)
    check_promises(result.module, promises)
    loose = aware(after, context(), steps=10, rate=1e-2)
    with pytest.raises(ContractError):
        check_promises(loose.module, promises)


BODY = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 1, 8, 8] image) => (float[N, 10] logits) {
    [n1] c1 = Conv <pads: ints = [1, 1, 1, 1]> (image, conv)
    [n2] r1 = Relu (c1)
    [n3] p1 = MaxPool <kernel_shape: ints = [2, 2], strides: ints = [2, 2]> (r1)
    [n4] c2 = Conv (p1, conv2)
    [n5] h = HardSwish (c2)
    [n6] f = Flatten (h)
    [n7] logits = MatMul (f, head)
}
"""


def small(**changed):
    random = np.random.default_rng(0)
    shapes = {"conv": (8, 1, 3, 3), "conv2": (16, 8, 3, 3), "head": (64, 10)}
    model = onnx.parser.parse_model(BODY)
    for name, shape in shapes.items():
        array = random.normal(0, 0.3, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(changed.get(name, array), name))
    module = from_proto(model)
    stamp_source(module)
    return module


@pytest.mark.parametrize("bits", [8, 4])
def test_pools_and_hard_swishes_keep_shared_grids(context, bits):
    result = aware(small(), context(), steps=8, rate=1e-2, weights=bits, activations=bits)
    assert not verify(result.module)
    apart, width = drift(result.module)
    assert apart < width / (2**bits - 1)


def test_layers_can_stay_float(context):
    result = aware(small(), context(), steps=2, keep=("n7",))
    assert any("left in float by `keep`" in note.message for note in result.notes)
    with pytest.raises(PassError, match="matches no layer"):
        aware(small(), context(), steps=2, keep=("nothing",))


def test_the_best_weights_are_kept(context):
    result = aware(
        small(), context(), epochs=2, validation=DataRef("scans", "calib"), monitor=MetricRef("accuracy"), rate=3e-3
    )
    assert "whose weights are kept" in result.notes[1].message


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers(context, bad):
    array = np.full((8, 1, 3, 3), 0.1, np.float32)
    array[0, 0, 0, 0] = bad
    with pytest.raises(PassError, match=r"NaN|infinite"):
        aware(small(conv=array), context(), steps=1)


def test_samples_that_are_no_numbers(trained, context):
    images = [dict(sample) for sample in SPLITS["train"][:96]]
    images[70] = {**images[70], "image": np.full((1, 8, 8), np.nan, np.float32)}
    with pytest.raises(PassError, match="the loss is nan at step"):
        aware(trained, context(train=images), epochs=1)
    with pytest.raises(PassError, match="NaN on calibration sample 70"):
        aware(small(), context(train=images), epochs=1, samples=96)


def test_what_it_refuses(trained, context):
    with pytest.raises(ValueError, match="nothing to train for"):
        Aware(TRAIN)
    with pytest.raises(ValueError, match="4 bits"):
        Aware(TRAIN, loss=LABELS, storage="int4")
    quantised = static(small(), context()).module
    with pytest.raises(PassError, match="quantised already"):
        aware(quantised, context(), steps=1)
    with pytest.raises(PassError, match="nothing to quantise"):
        aware(small(), context(), steps=1, keep=("n*",))
    with pytest.raises(DataError, match="no `target`"):
        aware(small(), context(train=[{"image": sample["image"]} for sample in SPLITS["train"][:64]]), steps=1)

    with pytest.raises(PassError, match="the teacher `parent` gives `answer`, and the network `logits`"):
        other = small()
        other.graph.outputs[0].name = "answer"
        other.touch()
        aware(small(), context(teacher=other), steps=1, teacher=PARENT)


RECIPE = """
model net = onnx("net.onnx")
data scans = python("data.py:data")
pipeline p = net {{ {steps} }}
"""


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ("quantize.aware(data=scans.train, loss=cross_entropy, weights=4, activations=4, epochs=3)", None),
        ("quantize.aware(data=scans.train, teacher=parent, method=pact, clip_decay=1e-4)", None),
        ("prune.magnitude(amount=50%) quantize.aware(data=scans.train, loss=mse, storage=int4, weights=3)", None),
        ("quantize.aware(data=scans.train, loss=cross_entropy) tune(data=scans.train, loss=cross_entropy)", None),
        ("quantize.aware(data=scans.train, loss=cross_entropy, weights=1)", "E0303"),
        ("quantize.aware(data=scans.train, loss=cross_entropy, activations=9)", "E0303"),
        ("quantize.aware(data=scans.train, loss=cross_entropy, method=dorefa)", "E0302"),
        ("quantize.aware(loss=cross_entropy)", "E0404"),
        ("quantize.aware(data=scans.train)", "E0314"),
        ("quantize.aware(data=scans.train, teacher=nobody)", "E0201"),
        ("quantize.static(data=scans.train) quantize.aware(data=scans.train, loss=cross_entropy)", "E0403"),
        ("quantize.aware(data=scans.train, loss=cross_entropy) quantize.static(data=scans.train)", "E0403"),
        ("quantize.aware(data=scans.train, loss=cross_entropy) prune.magnitude(amount=50%)", "E0403"),
    ],
)
def test_recipes_are_checked(tmp_path, steps, code):
    (tmp_path / "net.onnx").touch()
    (tmp_path / "data.py").write_text("def data(): ...\n", encoding="utf-8")
    path = tmp_path / "r.mopt"
    path.write_text(RECIPE.format(steps=steps), encoding="utf-8")
    found = [diagnostic.code for diagnostic in check_recipe(path, {}).diagnostics]
    assert found == ([] if code is None else [code])
