"""Sizes and values that real models really accept."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.ir import from_proto
from mopt.runtime import binding_search
from mopt.runtime.contract import RunError
from mopt.runtime.dimensions import dynamic_dimensions, resolve
from mopt.runtime.input_roles import Role, input_roles
from mopt.runtime.inputs import binding_sets, seeded_inputs, structure_key
from mopt.runtime.ort import OrtRunner
from mopt.runtime.text_image import text_images
from onnx import TensorProto, helper

F, I64 = TensorProto.FLOAT, TensorProto.INT64
REAL = [
    "rec_v4",
    "det_v4",
    "det_v3",
    "cls",
    "crnn_v2",
    "silero",
    "silero_ifless",
    "silero_sequence",
    "basic_pitch",
    "nsfw",
]


@pytest.mark.parametrize("name", REAL)
def test_real_models_run_with_both_sets_and_answer_to_their_input(name, packaged_module):
    module = packaged_module(name)
    sets = binding_sets(module)
    assert len(sets) == 2
    keys = {dimension.key for dimension in dynamic_dimensions(module)}
    assert all(set(sizes) == keys for sizes in sets)
    assert all(sets[0][key] != sets[1][key] for key in keys), "the second set differs in every dimension"
    with OrtRunner(module) as runner:
        for sizes in sets:
            first = runner.run(seeded_inputs(module, sizes, seed=0))
            other = runner.run(seeded_inputs(module, sizes, seed=1))
            assert all(np.isfinite(array).all() and array.size for array in first.values())
            assert all(np.abs(first[output] - other[output]).max() > 5e-4 for output in first), "no output is deaf"


def test_a_detectors_sides_are_multiples_of_32(packaged_module):
    sets = binding_sets(packaged_module("det_v4"))
    sides = [size for sizes in sets for key, size in sizes.items() if not key.endswith("Dimension.0")]
    assert len(sides) == 4
    assert all(side % 32 == 0 for side in sides)


def test_a_sample_rate_is_one_that_the_graph_compares_with(packaged_module):
    for name in ("silero", "silero_ifless"):
        assert seeded_inputs(packaged_module(name))["sr"] in (8000, 16000)


def test_the_state_follows_the_batch(packaged_module):
    for sizes in binding_sets(packaged_module("silero")):
        assert sizes["state_1"] == sizes["input_0"]


def test_a_static_model_has_one_empty_set(build):
    module = build([helper.make_node("Relu", ["x"], ["y"])], [("x", F, [1, 3])], [("y", F, [1, 3])])
    assert binding_sets(module) == [{}]
    assert seeded_inputs(module)["x"].shape == (1, 3)


def test_question_marks_are_not_one_dimension(build):
    module = build([helper.make_node("Relu", ["x"], ["y"])], [("x", F, [None, "?", "?"])], [("y", F, [None, "?", "?"])])
    assert [dimension.key for dimension in dynamic_dimensions(module)] == ["x_0", "x_1", "x_2"]


def embedding(build, positions=64, vocabulary=50):
    """Token ids and a mask; positions beyond a table fail, like in BERT."""
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["w"]),
        helper.make_node("Shape", ["ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"], axis=0),
        helper.make_node("Range", ["zero", "length", "step"], ["positions"]),
        helper.make_node("Gather", ["places", "positions"], ["p"]),
        helper.make_node("Add", ["w", "p"], ["e"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=F),
        helper.make_node("Unsqueeze", ["m", "last"], ["mm"]),
        helper.make_node("Mul", ["e", "mm"], ["y"]),
    ]
    weights = {
        "words": np.ones((vocabulary, 4), np.float32), "places": np.ones((positions, 4), np.float32),
        "one": np.array(1), "zero": np.array(0), "step": np.array(1), "last": np.array([-1]),
    }  # fmt: skip
    inputs = [("ids", I64, ["N", "L"]), ("attention_mask", I64, ["N", "L"])]
    return build(nodes, inputs, [("y", F, ["N", "L", 4])], weights)


def test_token_ids_stay_in_the_table_and_masks_are_binary(build):
    module = embedding(build, vocabulary=7)
    assert input_roles(module) == {"ids": Role("index", 7), "attention_mask": Role("mask")}
    feeds = seeded_inputs(module, {"N": 16, "L": 20})
    assert feeds["ids"].min() >= 0
    assert set(np.unique(feeds["ids"])) == set(range(7))
    mask = feeds["attention_mask"]
    assert set(np.unique(mask)) == {0, 1}
    assert mask[0].all()
    assert (np.diff(mask, axis=1) <= 0).all(), "ones first"


def test_sequences_fit_the_position_table(build):
    sets = binding_sets(embedding(build, positions=10))
    assert len(sets) == 2
    assert all(sizes["L"] <= 10 for sizes in sets)


def test_a_fixed_product_is_found(build):
    """Reshape to [N, 96]: only sizes whose triple is 96 pass."""
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    module = build(nodes, [("x", F, ["N", 3, "S"])], [("y", F, ["N", 96])], {"to": np.array([0, 96])})
    assert [sizes["S"] for sizes in binding_sets(module)] == [32, 32]


def test_a_model_that_takes_one_batch_has_one_set(build):
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    module = build(nodes, [("x", F, ["N", 4])], [("y", F, [2, 2])], {"to": np.array([2, 2])})
    assert binding_sets(module) == [{"N": 1}]


def test_no_sizes_is_an_error_that_names_the_dimensions(build):
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    module = build(nodes, [("x", F, ["N", 2, "L"])], [("y", F, [99991, 7])], {"to": np.array([99991, 7])})
    with pytest.raises(RunError, match="`N`, `L`"):
        binding_sets(module)


def test_a_derived_dimension_is_worked_out(build):
    nodes = [helper.make_node("Concat", ["a", "b"], ["c"], axis=1), helper.make_node("Add", ["c", "d"], ["y"])]
    inputs = [("a", F, ["N", "past"]), ("b", F, ["N", "seq"]), ("d", F, ["N", "past + seq"])]
    module = build(nodes, inputs, [("y", F, ["N", "all"])])
    sets = binding_sets(module)
    assert len(sets) == 2
    feeds = seeded_inputs(module, sets[1])
    assert feeds["d"].shape[1] == feeds["a"].shape[1] + feeds["b"].shape[1]


@pytest.mark.parametrize(
    ("text", "size"),
    [("a + b", 8), ("a+1", 6), ("2*a", 10), ("a - b", 2)],
    ids=["sum", "plus one", "twice", "difference"],
)
def test_expressions(text, size):
    assert resolve("x", (text, 4), {"a": 5, "b": 3}) == (size, 4)


def test_an_unknown_dimension_is_a_key_error():
    with pytest.raises(KeyError, match="c"):
        resolve("x", ("c",), {"a": 5})


def test_seeds_decide_values(cnn):
    one, same, other = (seeded_inputs(cnn, {"N": 2}, seed=seed)["image"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1
    assert np.abs(one[0] - one[1]).max() > 1


@pytest.mark.parametrize("shape", [(1, 3, 48, 64), (2, 1, 8, 8), (1, 4, 3, 200), (1, 3, 640, 640)])
def test_pictures_have_dark_letters_on_light_paper(shape):
    pictures = text_images(shape, np.random.default_rng(0))
    assert pictures.shape == shape
    assert pictures.dtype == np.float32
    if shape[2] > 7:
        assert 0.05 < np.mean(pictures < 0) < 0.5


def test_channels_last_are_found(packaged_module):
    module = packaged_module("nsfw")
    assert next(iter(input_roles(module).values())) == Role("image", 3)
    (picture,) = seeded_inputs(module).values()
    assert picture.shape == (1, 224, 224, 3)
    same_place = np.corrcoef(picture[..., 0].ravel(), picture[..., 2].ravel())[0, 1]
    assert same_place > 0.7, "the channels of a pixel belong together"


def test_logarithms_get_positive_values(build):
    module = build([helper.make_node("Log", ["x"], ["y"])], [("x", F, [64])], [("y", F, [64])])
    assert seeded_inputs(module)["x"].min() > 0


def test_sizes_are_searched_once_for_one_structure(cnn, monkeypatch):
    first = binding_sets(cnn)
    monkeypatch.setattr(binding_search, "search", lambda module: pytest.fail("searched again"))
    assert binding_sets(cnn.clone()) == first
    assert structure_key(cnn) == structure_key(cnn.clone())


def test_a_sequence_input_is_refused(build):
    nodes = [helper.make_node("SequenceLength", ["s"], ["n"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_sequence_value_info("s", F, None)],
        [helper.make_tensor_value_info("n", I64, [])],
    )
    module = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    with pytest.raises(RunError, match="can't make up values for input `s: sequence"):
        seeded_inputs(module)
