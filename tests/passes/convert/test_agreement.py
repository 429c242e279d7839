"""The comparison of a graph with its source: what it must catch, and what it must not take for an error."""

import numpy as np
import pytest
from mopt.ir import from_proto
from mopt.passes.convert.agreement import DisagreementError, agree
from onnx import TensorProto, helper, numpy_helper

SIZES = ({"N": 1}, {"N": 3})


def graph(factor, constant=False):
    """y = sin(factor x); a second output that does not depend on x, on request."""
    nodes = [helper.make_node("Mul", ["x", "f"], ["m"], "m"), helper.make_node("Sin", ["m"], ["y"], "s")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])]
    weights = [numpy_helper.from_array(np.array(factor, np.float32), "f")]
    if constant:
        nodes.append(helper.make_node("Identity", ["f"], ["c"], "c"))
        outputs.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, []))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])]
    made = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


def test_measures_are_reported():
    found = agree(graph(2.0), lambda feeds: {"y": np.sin(2 * feeds["x"])}, SIZES, 0)
    assert found.drift.max_rel < 1e-6
    assert str(found).endswith("at N=1 and N=3")
    assert found.constant == ()


def test_output_that_ignores_its_input_is_pointed_out():
    reference = lambda feeds: {"y": np.sin(2 * feeds["x"]), "c": np.float32(2)}  # noqa: E731
    found = agree(graph(2.0, constant=True), reference, SIZES, 0)
    assert found.constant == ("c",)
    assert "c did not depend on the input" in str(found)


def test_difference_at_one_size_only_is_found():
    def reference(feeds):
        return {"y": np.sin(2 * feeds["x"]) + (0.001 if len(feeds["x"]) == 3 else 0)}

    with pytest.raises(DisagreementError, match=r"at N=1 and N=3: max rel 0\.0005.*the limit is 0\.0001"):
        agree(graph(2.0), reference, SIZES, 0)


def test_other_shape_is_found():
    with pytest.raises(DisagreementError, match=r"at N=1: output `y` has shape \[1, 64\] instead of \[1, 32\]"):
        agree(graph(2.0), lambda feeds: {"y": np.sin(2 * feeds["x"][:, :32])}, SIZES, 0)


def test_rounding_of_an_ill_conditioned_model_is_no_error_but_more_is():
    """At this slope the last bit of the input moves the output by more than the usual limit."""

    def other_order(feeds):
        return {"y": np.sin((feeds["x"] / 3).astype(np.float32) * np.float32(30000))}

    found = agree(graph(10000.0), other_order, SIZES, 0)
    assert 1e-4 < found.drift.max_rel < 1e-2
    with pytest.raises(DisagreementError):
        agree(graph(10000.0), lambda feeds: {"y": other_order(feeds)["y"] + 0.03}, SIZES, 0)
