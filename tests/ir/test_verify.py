"""Every invariant has a module that breaks it, and only it."""

from __future__ import annotations

from collections.abc import Callable

import mopt.ir
import onnx
import onnx_ir as ir
import pytest
from mopt.ir import Module, verification

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x, bool c) => (float[N, 8] y) <float[4, 8] w = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
   16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}>
{
   t = MatMul (x, w)
   s = Relu (t)
   y = If (c) <then_branch = yes () => (a) { a = Tanh (s) }, else_branch = no () => (b) { b = Add (t, s) }>
}
"""


def module() -> Module:
    built = mopt.ir.from_proto(onnx.parser.parse_model(TEXT))
    assert mopt.ir.verify(built) == []
    return built


def named(built: Module, op_type: str) -> ir.Node:
    return next(node for node in built.nodes() if node.op_type == op_type)


def two_values_of_one_name(built: Module) -> None:
    named(built, "Tanh").outputs[0].name = "s"


def value_without_name(built: Module) -> None:
    named(built, "Relu").outputs[0].name = None


def two_nodes_of_one_name(built: Module) -> None:
    named(built, "Relu").name = named(built, "Tanh").name


def node_without_name(built: Module) -> None:
    named(built, "Tanh").name = ""


def user_outside_the_model(built: Module) -> None:
    ir.node("Neg", [named(built, "Relu").outputs[0]])


def removed_node_still_used(built: Module) -> None:
    built.graph.remove(named(built, "Relu"))


def output_of_nothing(built: Module) -> None:
    built.graph.outputs[0] = ir.Value(name="z", type=ir.TensorType(ir.DataType.FLOAT))


def output_listed_twice(built: Module) -> None:
    built.graph.outputs.append(built.graph.outputs[0])


def weight_without_tensor(built: Module) -> None:
    built.graph.initializers["w"].const_value = None


def weight_of_another_shape(built: Module) -> None:
    built.graph.initializers["w"].shape = ir.Shape([8, 4])


def weight_of_another_type(built: Module) -> None:
    built.graph.initializers["w"].type = ir.TensorType(ir.DataType.DOUBLE)


def cycle(built: Module) -> None:
    named(built, "MatMul").replace_input_with(0, named(built, "Relu").outputs[0])


def cycle_through_a_branch(built: Module) -> None:
    named(built, "MatMul").replace_input_with(0, named(built, "If").outputs[0])


def inner_value_used_outside(built: Module) -> None:
    named(built, "Relu").replace_input_with(0, named(built, "Tanh").outputs[0])


def value_of_the_other_branch(built: Module) -> None:
    named(built, "Tanh").replace_input_with(0, named(built, "Add").outputs[0])


def unsorted(built: Module) -> None:
    relu = named(built, "Relu")
    built.graph.remove(relu)
    built.graph.insert_before(named(built, "MatMul"), relu)


def unsorted_for_a_branch(built: Module) -> None:
    relu = named(built, "Relu")
    built.graph.remove(relu)
    built.graph.append(relu)


def opset_of_the_future(built: Module) -> None:
    built.model.opset_imports[""] = 999


def no_opset(built: Module) -> None:
    built.model.opset_imports.clear()


def unknown_operator(built: Module) -> None:
    named(built, "Relu").op_type = "Rleu"


def operator_newer_than_the_opset(built: Module) -> None:
    named(built, "Relu").op_type = "Gelu"


def removed_operator(built: Module) -> None:
    named(built, "Relu").op_type = "Upsample"


def domain_not_imported(built: Module) -> None:
    named(built, "Relu").domain = "com.microsoft"


def too_few_inputs(built: Module) -> None:
    named(built, "MatMul").resize_inputs(1)


def missing_input(built: Module) -> None:
    named(built, "MatMul").replace_input_with(0, None)


def too_many_outputs(built: Module) -> None:
    named(built, "Relu").resize_outputs(2)
    named(built, "Relu").outputs[1].name = "extra"


def unknown_attribute(built: Module) -> None:
    named(built, "Relu").attributes.add(ir.AttrInt64("alpha", 1))


def attribute_of_another_type(built: Module) -> None:
    named(built, "Relu").op_type = "LeakyRelu"
    named(built, "LeakyRelu").attributes.add(ir.AttrInt64("alpha", 1))


def missing_attribute(built: Module) -> None:
    named(built, "Relu").op_type = "Cast"


def untyped_output(built: Module) -> None:
    built.graph.outputs[0].type = None


def stale_shape(built: Module) -> None:
    named(built, "MatMul").outputs[0].shape = ir.Shape(["N", 2])


def stale_rank(built: Module) -> None:
    named(built, "MatMul").outputs[0].shape = ir.Shape(["N", 8, 1])


def stale_type_in_a_branch(built: Module) -> None:
    named(built, "Tanh").outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)


BREAKS: dict[Callable[[Module], None], str] = {
    two_values_of_one_name: "ssa",
    value_without_name: "ssa",
    two_nodes_of_one_name: "node-names",
    node_without_name: "node-names",
    user_outside_the_model: "uses",
    output_of_nothing: "outputs",
    output_listed_twice: "outputs",
    weight_without_tensor: "initializers",
    weight_of_another_shape: "initializers",
    weight_of_another_type: "initializers",
    cycle: "acyclic",
    cycle_through_a_branch: "acyclic",
    removed_node_still_used: "scopes",
    inner_value_used_outside: "scopes",
    value_of_the_other_branch: "scopes",
    unsorted: "sorted",
    unsorted_for_a_branch: "sorted",
    opset_of_the_future: "opsets",
    no_opset: "opsets",
    unknown_operator: "operators",
    operator_newer_than_the_opset: "operators",
    removed_operator: "operators",
    domain_not_imported: "operators",
    too_few_inputs: "operators",
    missing_input: "operators",
    too_many_outputs: "operators",
    unknown_attribute: "operators",
    attribute_of_another_type: "operators",
    missing_attribute: "operators",
    untyped_output: "declared",
    stale_shape: "inferred",
    stale_rank: "inferred",
    stale_type_in_a_branch: "inferred",
}


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__)
def test_what_breaks_an_invariant_is_found(damage: Callable[[Module], None]) -> None:
    built = module()
    damage(built)
    built.touch()
    violations = mopt.ir.verify(built)
    assert BREAKS[damage] in {violation.invariant for violation in violations}, violations


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__)
def test_a_broken_module_is_never_an_exception(damage: Callable[[Module], None]) -> None:
    built = module()
    damage(built)
    for invariant in (*verification.STRUCTURE,):
        list(invariant(built))
    built.dataflow()


def test_every_invariant_has_a_break() -> None:
    names = {check.__name__.removeprefix("check_").replace("_", "-") for check in ALL}
    assert names == set(BREAKS.values())


ALL = (*verification.STRUCTURE, *verification.MEANING)


def test_a_violation_reads_well() -> None:
    built = module()
    unknown_operator(built)
    assert str(mopt.ir.verify(built)[0]) == "operators: Rleu does not exist at opset 17 (node `Relu_1`)"


def test_functions_are_checked() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[4] x) => (float[4] y) { y = own.F (x) }
    <domain: "own", opset_import: ["" : 17]> F (a) => (b) { t = Relu (a)
      b = Neg (t) }
    """
    built = mopt.ir.from_proto(onnx.parser.parse_model(text))
    assert mopt.ir.verify(built) == []
    body = next(iter(built.model.functions.values())).graph
    body[0].op_type = "Rleu"
    assert [violation.invariant for violation in mopt.ir.verify(built)] == ["operators"]
    body[0].op_type = "Relu"
    body[0].outputs[0].name = "a"
    assert [violation.invariant for violation in mopt.ir.verify(built)] == ["ssa"]


def test_custom_operators_are_taken_as_they_are() -> None:
    built = module()
    relu = named(built, "Relu")
    relu.domain, relu.op_type = "my.domain", "Anything"
    built.model.opset_imports["my.domain"] = 3
    assert mopt.ir.verify(built) == []
