"""What ONNX has no node case for, or too few: every form of recurrence, old operators, sequences."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnxruntime
import pytest
import torch
from mopt.ir import from_proto
from mopt.runtime.trainable.runner import TrainableModule
from onnx import TensorProto, helper

RANDOM = np.random.default_rng(7)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATIONS = {
    "LSTM": (["HardSigmoid", "ScaledTanh", "LeakyRelu"], [0.3, 1.2, 0.05], [0.4, 0.9]),
    "GRU": (["HardSigmoid", "Softsign"], [0.3], [0.4]),
    "RNN": (["Affine"], [0.5], [0.1]),
}
FORMS = [
    (kind, form)
    for kind in GATES
    for form in ("plain", "clip", "activations", "peepholes", "reset last", "coupled")
    if (kind == "LSTM" or form not in ("peepholes", "coupled")) and (kind == "GRU" or form != "reset last")
]


def real(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def onnxruntimes(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_recurrences(kind, form, single_node, run_node):
    for direction, lengths, initial in product(
        ("forward", "reverse", "bidirectional"), (None, [5, 2, 3], [2, 0, 4]), (False, True)
    ):
        directions = 2 if direction == "bidirectional" else 1
        attributes = {"hidden_size": 6, "direction": direction}
        if form == "clip":
            attributes["clip"] = 0.3
        elif form == "activations":
            names = ("activations", "activation_alpha", "activation_beta")
            attributes.update(zip(names, (values * directions for values in ACTIVATIONS[kind]), strict=True))
        elif form == "reset last":
            attributes["linear_before_reset"] = 1
        elif form == "coupled":
            attributes["input_forget"] = 1
        gates = GATES[kind]
        inputs = [real(5, 3, 4), real(directions, gates * 6, 4), real(directions, gates * 6, 6)]
        inputs += [real(directions, gates * 12), None if lengths is None else np.array(lengths, np.int32)]
        inputs += [real(directions, 3, 6) if initial else None]
        if kind == "LSTM":
            inputs += [real(directions, 3, 6) if initial else None]
            inputs += [real(directions, 18) if form == "peepholes" else None]
        outputs = 3 if kind == "LSTM" else 2
        model = single_node(kind, inputs, outputs, version=14, **attributes)
        feeds = {f"x{place}": array for place, array in enumerate(inputs) if array is not None}
        wanted = onnxruntimes(model, feeds)
        given = run_node(model, [None if array is None else torch.from_numpy(array) for array in inputs])
        for expected, actual in zip(wanted, given, strict=True):
            np.testing.assert_allclose(
                actual.detach().numpy(), expected, atol=2e-5, err_msg=f"{direction}, {lengths}, {initial}"
            )


@pytest.mark.parametrize(
    ("name", "attributes", "inputs"),
    [
        ("GlobalLpPool", {"p": 3}, [real(2, 3, 4, 5)]),
        (
            "MaxRoiPool",
            {"pooled_shape": [2, 3], "spatial_scale": 0.5},
            [real(2, 3, 8, 9), np.array([[0, 1, 2, 13, 12], [1, 0, 0, 4, 15]], np.float32)],
        ),
    ],
)
def test_operators_without_cases(name, attributes, inputs, single_node, run_node):
    model = single_node(name, inputs, version=14, **attributes)
    (wanted,) = onnxruntimes(model, {f"x{place}": array for place, array in enumerate(inputs)})
    (given,) = run_node(model, [torch.from_numpy(array) for array in inputs])
    np.testing.assert_allclose(given.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_sequences_are_built_changed_and_joined():
    nodes = [
        helper.make_node("SequenceConstruct", ["a", "b", "a"], ["three"]),
        helper.make_node("SequenceErase", ["three", "minus_two"], ["two"]),
        helper.make_node("SequenceInsert", ["two", "b", "zero"], ["inserted"]),
        helper.make_node("SequenceAt", ["inserted", "zero"], ["first"]),
        helper.make_node("SequenceLength", ["inserted"], ["length"]),
        helper.make_node("ConcatFromSequence", ["inserted"], ["joined"], axis=1),
        helper.make_node("ConcatFromSequence", ["inserted"], ["stacked"], axis=0, new_axis=1),
    ]
    places = [helper.make_tensor(name, TensorProto.INT64, [], [at]) for name, at in (("zero", 0), ("minus_two", -2))]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "ab"]
    types = {"first": TensorProto.FLOAT, "length": TensorProto.INT64}
    outputs = [
        helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), None)
        for name in ("first", "length", "joined", "stacked")
    ]
    graph = helper.make_graph(nodes, "sequences", inputs, outputs, places)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    feeds = {"a": real(2, 3), "b": real(2, 3)}
    wanted = onnxruntimes(model, feeds)
    given = TrainableModule(from_proto(model), trainable=False)(
        {name: torch.from_numpy(array) for name, array in feeds.items()}
    )
    for output, expected in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(given[output.name].numpy(), expected)


@pytest.mark.parametrize(
    ("name", "attributes", "mean", "deviation"),
    [
        ("RandomNormalLike", {"mean": 2.0, "scale": 0.5}, 2.0, 0.5),
        ("RandomUniformLike", {"low": -1.0, "high": 3.0}, 1.0, 4 / 12**0.5),
        ("RandomNormal", {"shape": [100, 100]}, 0.0, 1.0),
        ("RandomUniform", {"shape": [100, 100]}, 0.5, 1 / 12**0.5),
    ],
)
def test_random_tensors_have_their_distribution_and_repeat_with_their_seed(
    name, attributes, mean, deviation, single_node
):
    like = np.zeros((100, 100), np.float32)
    model = single_node(name, [like] if name.endswith("Like") else [], seed=3.5, **attributes)
    feeds = {"x0": torch.from_numpy(like)} if name.endswith("Like") else {}

    def drawn():
        runner = TrainableModule(from_proto(model), trainable=False)
        return runner(feeds)["y0"], runner(feeds)["y0"]

    first, second = drawn()
    again, _ = drawn()
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert abs(float(first.mean()) - mean) < 0.05
    assert abs(float(first.std()) - deviation) < 0.05


def test_multinomial_draws_by_probability(single_node, run_node):
    scores = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))
    model = single_node("Multinomial", [scores.numpy()], output_types=(TensorProto.INT32,), sample_size=20000, seed=1.0)
    (given,) = run_node(model, [scores])
    assert given.dtype == torch.int32
    shares = torch.bincount(given.reshape(-1).long()) / 20000
    torch.testing.assert_close(shares, scores[0].exp(), atol=0.02, rtol=0)
