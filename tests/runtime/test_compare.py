"""The figures of drift, on arrays where they are known."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx_ir as ir
import pytest
from mopt.ir import Module
from mopt.runtime.compare import compare_modules, drift, worst_of


def outputs(*values: float) -> dict[str, np.ndarray]:
    return {"y": np.array(values, dtype=np.float32)}


def test_equal_outputs():
    found = drift(outputs(1, 2, 3), outputs(1, 2, 3))
    assert (found.max_abs, found.max_rel, found.cosine, found.worst) == (0, 0, pytest.approx(1), "y")


def test_relative_to_the_outputs_range():
    found = drift(outputs(-2, 0, 2), outputs(-2, 0.04, 2))
    assert found.max_abs == pytest.approx(0.04)
    assert found.max_rel == pytest.approx(0.01)


def test_elements_near_zero_do_not_explode():
    assert drift(outputs(1e-9, 1), outputs(2e-9, 1)).max_rel < 1e-8


def test_a_nearly_constant_output_is_scaled_by_its_magnitude():
    assert drift(outputs(1, 1), outputs(1, 1 + 1e-5)).max_rel == pytest.approx(1e-4, rel=0.1)


def test_a_single_number_is_scaled_by_itself():
    assert drift(outputs(0.5), outputs(0.501)).max_rel == pytest.approx(2e-3, rel=1e-3)


def test_faint_outputs_are_scaled_by_a_thousandth():
    """A detector that sees nothing: sigmoids of a few 2^-24, where one step more or less is no drift."""
    faint = outputs(0, 96 * 2**-24)
    assert drift(faint, outputs(0, 97 * 2**-24)).max_rel == pytest.approx(2**-24 / 1e-3)
    assert drift(outputs(0, 0), outputs(0, 1e-6)).max_rel == pytest.approx(1e-3)
    assert not drift(outputs(1e-6, 3e-6), outputs(3e-6, 1e-6)).within(1e-4), "wrong outputs stay wrong"


def test_the_worst_output_is_named():
    expected = {"a": np.array([0.0, 1.0]), "b": np.array([0.0, 100.0])}
    found = drift(expected, {"a": np.array([0.0, 1.5]), "b": np.array([0.0, 101.0])})
    assert found.worst == "a"
    assert found.max_abs == 1.0
    assert found.outputs["b"].max_rel == pytest.approx(0.01)


@pytest.mark.parametrize(("one", "other"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, -math.inf), (1.0, math.inf)])
def test_not_a_number_in_one_only_is_infinite(one, other):
    assert drift(outputs(one, 2), outputs(other, 2)).max_rel == math.inf


def test_not_a_number_in_both_is_equal():
    assert drift(outputs(math.nan, math.inf, 2, 4), outputs(math.nan, math.inf, 2, 4)).max_rel == 0


def test_another_shape_is_a_problem():
    found = drift({"y": np.zeros((2, 3))}, {"y": np.zeros((2, 4))})
    assert found.problem == "output `y` has shape [2, 4] instead of [2, 3]"
    assert not found.within(1e9)


def test_a_missing_output_is_a_problem():
    assert drift(outputs(1), {}).problem == "output `y` is missing"


def test_integers_booleans_and_text():
    assert drift({"y": np.array([1, 9])}, {"y": np.array([1, 7])}).max_abs == 2
    assert drift({"y": np.array([True, False])}, {"y": np.array([True, True])}).max_abs == 1
    assert drift({"y": np.array(["a"], dtype=object)}, {"y": np.array(["b"], dtype=object)}).max_rel == math.inf


def test_unsigned_integers_do_not_wrap():
    assert drift({"y": np.array([1], np.uint8)}, {"y": np.array([2], np.uint8)}).max_abs == 1


def test_json_has_no_infinity():
    json.loads(json.dumps(drift(outputs(1), {}).to_json()), parse_constant=lambda name: pytest.fail(name))


def test_the_worst_of_several_inputs():
    found = worst_of([drift(outputs(0, 1), outputs(0, 1.5)), drift(outputs(0, 1), outputs(0, 1.1))])
    assert found.max_rel == pytest.approx(0.5)


def test_modules_with_equal_weights_agree_and_others_do_not(cnn: Module):
    changed = cnn.clone()
    weight = next(weight for weight in changed.weights() if weight.name == "conv.weight")
    weight.replace(weight.tensor.numpy() * np.float32(1.5))
    changed.touch()
    assert compare_modules(cnn, cnn.clone()).within(0)
    assert compare_modules(cnn, changed).max_rel > 0.05
    assert compare_modules(cnn, changed, bindings={"N": 3}).max_rel > 0.05


def test_an_interface_of_other_types_is_cast(cnn: Module):
    half = cnn.clone()
    for weight in half.weights():
        weight.replace(weight.tensor.numpy().astype(np.float16))
    for value in [*half.graph.inputs, *half.graph.outputs]:
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    for node in half.graph:
        for output in node.outputs:
            output.type = ir.TensorType(ir.DataType.FLOAT16)
    half.touch()
    assert 0 < compare_modules(cnn, half).max_rel < 0.01
