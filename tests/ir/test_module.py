"""`Module`: its interface, weights wherever they are, the dataflow view, copies, names."""

from __future__ import annotations

import itertools

import mopt.ir
import networkx
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mopt.ir import LoadError, Module, interface_changes, interface_of
from mopt.ir.dataflow import Output
from mopt.ir.naming import name_everything
from onnx import TensorProto, helper, numpy_helper

BRANCHES = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[N, 4] x, bool c) => (float[N, 4] y, float[N, 4] z) <float[4] w = {1, 2, 3, 4}>
{
   k = Constant <value_floats = [5.0, 6.0, 7.0, 8.0]> ()
   a = Mul (x, x)
   t = Add (a, w)
   y = If (c) <
      then_branch = yes () => (r) { i = Constant <value = float[4] {1, 0, 0, 0}> ()
                                    q = Mul (t, i)
                                    r = Add (q, w) },
      else_branch = no () => (r) <float[4] v = {9, 9, 9, 9}> { q = Mul (a, v)
                                    r = Sub (q, k) }
   >
   z = own.F (y)
}
<domain: "own", opset_import: ["" : 17]> F (a) => (b) { k = Constant <value_float = 3.0> ()
  b = Mul (a, k) }
"""


@pytest.fixture
def module() -> Module:
    return mopt.ir.from_proto(onnx.parser.parse_model(BRANCHES))


def test_every_weight_is_found(module: Module) -> None:
    assert [(weight.name, weight.dtype, weight.shape) for weight in module.weights()] == [
        ("w", "f32", (4,)), ("k", "f32", (4,)), ("i", "f32", (4,)), ("v", "f32", (4,)), ("own::F/k", "f32", ()),
    ]  # fmt: skip


def test_users_inside_branches_are_known(module: Module) -> None:
    users = {weight.name: [node.op_type for node, _ in weight.users] for weight in module.weights()}
    assert users == {"w": ["Add", "Add"], "k": ["Sub"], "i": ["Mul"], "v": ["Mul"], "own::F/k": ["Mul"]}


def test_replacing_weights(module: Module) -> None:
    copy = module.clone()
    before = {weight.name: weight.numpy().copy() for weight in module.weights()}
    for weight in copy.weights():
        weight.replace(np.full((2, *weight.shape), 0.5, dtype=np.float16))
    assert copy.revision == 5
    for weight in mopt.ir.from_proto(mopt.ir.to_proto(copy), infer=False).weights():
        assert weight.dtype == "f16"
        assert weight.shape[0] == 2
        assert (weight.numpy() == 0.5).all()
    for weight in module.weights():
        np.testing.assert_array_equal(weight.numpy(), before[weight.name])
        assert weight.dtype == "f32"


def test_replacing_by_a_scalar_keeps_its_rank(module: Module) -> None:
    weight = next(iter(module.weights()))
    weight.replace(np.array(2.0, dtype=np.float32))
    assert weight.shape == ()


def constant(**value: object) -> Module:
    node = helper.make_node("Constant", [], ["y"], **value)  # type: ignore[arg-type]
    graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("y")])
    return mopt.ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value_float": 1.5}, np.array(1.5, np.float32)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": 3}, np.array(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
        ({"value_string": "ü"}, np.array("ü".encode())),
        ({"value_strings": ["a", "bc"]}, np.array([b"a", b"bc"])),
        ({"value": numpy_helper.from_array(np.ones((2, 3), np.int8))}, np.ones((2, 3), np.int8)),
    ],
)
def test_every_kind_of_constant_is_a_weight(attribute: dict[str, object], expected: np.ndarray) -> None:
    module = constant(**attribute)
    (weight,) = module.weights()
    assert weight.shape == expected.shape
    assert weight.numpy().tolist() == expected.tolist()
    weight.replace(np.zeros(5, np.float32))
    assert list(weight.node.attributes) == ["value"]
    assert weight.numpy().tolist() == [0] * 5


def test_sparse_constants_become_dense() -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([2.0], np.float32), "y"), numpy_helper.from_array(np.array([1]), "i"), [3]
    )
    module = constant(sparse_value=sparse)
    assert next(iter(module.weights())).numpy().tolist() == [0, 2, 0]


def test_parameters_are_told_from_constants() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 4, 4] x) => (float y)
    <float[2, 2, 1, 1] kernel = {1, 2, 3, 4}, float[1] bias = {1}, float[1] six = {6}, float three = {3},
     float[2, 1, 1] scale = {1, 2}, int64[4] shape = {1, 2, 2, 8}, float low = {0}, int8[2, 2] q = {1, 2, 3, 4},
     float qs = {0.1}, int8 qz = {0}, int64[2] picked = {0, 1}, float[4] sizes = {1, 1, 2, 2}>
    {
       a = Conv (x, kernel, bias)
       b = Add (a, three)
       e = Clip (b, low, six)
       d = Mul (e, scale)
       f = Div (d, six)
       h = Reshape (f, shape)
       r = Resize (h, , sizes)
       m = DequantizeLinear (q, qs, qz)
       n = Gather (m, picked)
       o = MatMul (r, n)
       y = Identity (o)
    }
    """
    module = mopt.ir.from_proto(onnx.parser.parse_model(text), infer=False)
    assert {weight.name for weight in module.weights() if weight.is_parameter} == {"kernel", "bias", "scale", "q"}


def test_dataflow_view(module: Module) -> None:
    view = module.dataflow()
    kinds = [(str(getattr(vertex, "name", "")), kind) for vertex, kind in view.nodes(data="kind")]
    assert kinds == [
        ("x", "input"), ("c", "input"), ("w", "initializer"), ("Constant_0", "node"), ("Mul_1", "node"),
        ("Add_2", "node"), ("If_3", "node"), ("F_9", "node"), ("y", "output"), ("z", "output"),
    ]  # fmt: skip
    nodes = {node.name: node for node in module.graph}
    x = module.graph.inputs[0]
    assert sorted(view[x][nodes["Mul_1"]]) == [(0, 0), (0, 1)]
    captured = {
        (data["value"].name, data["input"], data["captured"]) for _, _, data in view.in_edges(nodes["If_3"], data=True)
    }
    assert captured == {("c", 0, False), ("t", 1, True), ("w", 2, True), ("a", 3, True), ("k", 4, True)}
    assert view.in_degree(Output("y", 0)) == 1
    assert networkx.is_directed_acyclic_graph(view)
    order = list(networkx.lexicographical_topological_sort(view, key=list(view).index))
    assert [v for v in order if isinstance(v, ir.Node)] == list(module.graph)


def test_dataflow_view_of_a_branch(module: Module) -> None:
    branch = next(node for node in module.nodes() if node.op_type == "If").attributes["then_branch"].as_graph()
    view = module.dataflow(branch)
    kinds = [(vertex.name, kind) for vertex, kind in view.nodes(data="kind")]
    assert kinds[-3:] == [("t", "capture"), ("w", "capture"), ("r", "output")]


def test_dataflow_view_is_derived_once_per_revision(module: Module) -> None:
    view = module.dataflow()
    assert module.dataflow() is view
    node = module.graph[0]
    node.outputs[0].replace_all_uses_with(module.graph.initializers["w"])
    module.graph.remove(node)
    module.touch()
    assert node not in module.dataflow()


def test_nodes_come_in_order_with_what_is_inside(module: Module) -> None:
    assert [node.op_type for node in module.nodes()] == [
        "Constant", "Mul", "Add", "If", "Constant", "Mul", "Add", "Mul", "Sub", "F",
    ]  # fmt: skip
    assert [node.op_type for node in module.nodes(functions=True)][-2:] == ["Constant", "Mul"]


def test_names_are_unique_and_stable(module: Module) -> None:
    values = [output.name for node in module.nodes() for output in node.outputs]
    assert len(set(values)) == len(values)
    again = mopt.ir.from_proto(onnx.parser.parse_model(BRANCHES))
    assert values == [output.name for node in again.nodes() for output in node.outputs]
    assert [node.name for node in module.nodes()] == [node.name for node in again.nodes()]
    name_everything(again.model)
    assert values == [output.name for node in again.nodes() for output in node.outputs]


def test_taken_names_are_avoided() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1] x) => (float[1] y) { [Relu_1] a = Relu (x)
      b = Relu (a)
      [Relu_1] y = Relu (b) }
    """
    module = mopt.ir.from_proto(onnx.parser.parse_model(text))
    assert [node.name for node in module.nodes()] == ["Relu_1", "Relu_1_1", "Relu_1_2"]


def test_a_clone_is_independent_but_shares_weights(module: Module) -> None:
    text = mopt.ir.print_module(module)
    copy = module.clone()
    assert mopt.ir.print_module(copy) == text
    pairs = zip(module.weights(), copy.weights(), strict=True)
    assert all(
        a.tensor is b.tensor for a, b in itertools.islice(pairs, 4) if a.node is None or "value" in a.node.attributes
    )
    for node in copy.nodes():
        for output in node.outputs:
            output.dtype = ir.DataType.DOUBLE
            output.name = f"{output.name}/new"
    for value in copy.graph.inputs:
        value.dtype = ir.DataType.DOUBLE
    for node in list(copy.nodes()):
        node.metadata_props["k"] = "v"
        node.attributes.clear()
    assert mopt.ir.print_module(module) == text
    assert not any(node.metadata_props for node in module.nodes())


def test_clone_of_an_unsorted_graph_is_an_error(module: Module) -> None:
    node = module.graph[1]
    module.graph.remove(node)
    module.graph.append(node)
    with pytest.raises(mopt.ir.IRError, match="can't be copied"):
        module.clone()


def test_interface_changes(module: Module) -> None:
    before = interface_of(module)
    assert interface_changes(before, before) == []
    copy = module.clone()
    copy.graph.inputs[0].shape = ir.Shape(["M", 4])
    copy.graph.outputs[1].shape = ir.Shape([3, 4])
    assert interface_changes(before, interface_of(copy)) == []
    copy.graph.inputs[0].shape = ir.Shape([1, 4])
    assert interface_changes(before, interface_of(copy)) == ["input was x: f32[N, 4], now x: f32[1, 4]"]
    copy = module.clone()
    copy.graph.outputs[0].dtype = ir.DataType.FLOAT16
    assert interface_changes(before, interface_of(copy)) == ["output was y: f32[N, 4], now y: f16[N, 4]"]
    assert interface_changes(before, interface_of(copy), dtypes_may_change=True) == []
    copy = module.clone()
    copy.graph.inputs.pop()
    assert interface_changes(before, interface_of(copy)) == ["inputs were `x`, `c`, now `x`"]


def test_what_is_no_tensor_has_a_type_too() -> None:
    x = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [])
    graph = helper.make_graph([helper.make_node("SequenceLength", ["x"], ["y"])], "g", [x], [y])
    module = mopt.ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert [str(info) for info in module.inputs] == ["x: sequence(f32)[…]"]


def test_from_proto_reports_like_load() -> None:
    with pytest.raises(LoadError, match="there is no graph"):
        mopt.ir.from_proto(onnx.ModelProto())
