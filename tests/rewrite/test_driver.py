import onnx.parser
import pytest
from mopt.ir import from_proto, verify
from mopt.ir.provenance import history, origins, stamp_source
from mopt.rewrite import Miss, Replacement, Rule, View, apply_rules, explain_rule

HEADER = '<ir_version: 10, opset_import: ["" : 17]>\n'


def parse(text):
    module = from_proto(onnx.parser.parse_model(HEADER + text))
    for node in module.nodes():
        node.name = node.outputs[0].name
    stamp_source(module)
    return module


class NegPair(Rule):
    name = "neg-pair"
    anchors = ("Neg",)
    algebra = "-(-x) = x"

    def match(self, view, node):
        inner = view.producer(node.inputs[0], "Neg")
        if inner is None:
            return Miss("its input is no Neg")
        if not view.only_used_by(inner.outputs[0], node):
            return Miss("the inner one has other readers", 1)
        return {"node": node, "inner": inner}

    def rewrite(self, view, bindings):
        node, inner = bindings["node"], bindings["inner"]
        return Replacement([node, inner], {node.outputs[0]: inner.inputs[0]})


class Swap(Rule):
    """Never ends: turns each operator into the other."""

    name = "swap"
    anchors = ("Abs", "Relu")

    def match(self, view, node):
        return {"node": node}

    def rewrite(self, view, bindings):
        node = bindings["node"]
        new = view.node("Relu" if node.op_type == "Abs" else "Abs", list(node.inputs), like=node.outputs[0])
        return Replacement([node], {node.outputs[0]: new.outputs[0]}, [new])


class AbsIsRelu(Swap):
    name = "abs-is-relu"
    anchors = ("Abs",)


def operators(module):
    return [node.op_type for node in module.nodes()]


def test_a_chain_is_rewritten_to_the_end():
    module = parse("g (float[N] x) => (float[N] y) { a = Neg (x) b = Neg (a) c = Neg (b) d = Neg (c) y = Abs (d) }")
    trace = apply_rules(module, [NegPair()])
    assert operators(module) == ["Abs"]
    assert trace.counts["neg-pair"] == 2
    assert trace.converged


def test_dead_nodes_and_unused_initializers_leave():
    module = parse(
        "g (float[N] x) => (float[N] y) <float w = {1}, float u = {2}> { a = Add (x, w) b = Mul (a, u) y = Neg (x) }"
    )
    trace = apply_rules(module, [])
    assert operators(module) == ["Neg"]
    assert list(module.graph.initializers) == []
    assert trace.counts == {"dead-code": 2}


def test_unused_inputs_of_the_interface_stay():
    module = parse("g (float[N] x, float[N] z) => (float[N] y) { y = Neg (x) }")
    apply_rules(module, [NegPair()])
    assert [info.name for info in module.inputs] == ["x", "z"]


def test_an_output_that_becomes_the_input_gets_an_identity():
    module = parse("g (float[N] x) => (float[N] y) { a = Neg (x) y = Neg (a) }")
    trace = apply_rules(module, [NegPair()])
    assert operators(module) == ["Identity"]
    assert [info.name for info in module.outputs] == ["y"]
    assert trace.converged
    assert verify(module) == []


def test_an_output_taken_over_keeps_its_name_for_other_readers():
    module = parse("g (float[N] x) => (float[N] y, float[N] z) { r = Relu (x) a = Neg (r) y = Neg (a) z = Abs (r) }")
    apply_rules(module, [NegPair()])
    assert sorted(operators(module)) == ["Abs", "Relu"]
    assert [info.name for info in module.outputs] == ["y", "z"]
    assert verify(module) == []


def test_rules_that_undo_each_other_end_with_a_report():
    module = parse("g (float[N] x) => (float[N] y) { y = Abs (x) }")
    assert not apply_rules(module, [Swap()]).converged
    assert verify(module) == []


def test_provenance_is_handed_on():
    module = parse("g (float[N] x) => (float[N] y) { y = Abs (x) }")
    apply_rules(module, [AbsIsRelu()], by="simplify.rules")
    (node,) = module.nodes()
    assert origins(node) == ("y",)
    assert history(node) == ("simplify.rules/abs-is-relu",)


def test_rules_work_inside_branches():
    module = parse(
        "g (float[N] x, bool c) => (float[N] y) { y = If (c) <then_branch = a () => (float[N] t) "
        "{ n = Neg (x) m = Neg (n) t = Abs (m) }, else_branch = b () => (float[N] e) { e = Relu (x) }> }"
    )
    apply_rules(module, [NegPair()])
    assert operators(module) == ["If", "Abs", "Relu"]
    assert verify(module) == []


def test_a_match_changes_nothing():
    module = parse("g (float[N] x) => (float[N] y) { a = Neg (x) y = Neg (a) }")
    view, before = View(module), operators(module)
    for node in module.nodes():
        NegPair().match(view, node)
    assert operators(module) == before


def test_a_rule_whose_result_needs_a_newer_opset_is_left_out():
    class Newer(NegPair):
        opset = 99

    module = parse("g (float[N] x) => (float[N] y) { a = Neg (x) b = Neg (a) y = Abs (b) }")
    assert apply_rules(module, [Newer()]).applied == []
    assert "needs opset 99" in explain_rule("neg-pair", module, [Newer()])


def test_the_nearest_miss_is_explained():
    module = parse("g (float[N] x) => (float[N] y, float[N] z) { a = Neg (x) y = Neg (a) z = Abs (a) }")
    text = explain_rule("neg-pair", module, [NegPair()])
    assert "nearest miss: Neg `y`" in text
    assert "because the inner one has other readers" in text
    assert "1 more: its input is no Neg" in text


def test_where_a_rule_applies_is_said_without_applying_it():
    module = parse("g (float[N] x) => (float[N] y) { a = Neg (x) y = Neg (a) }")
    assert "applies at 1 node:\n  Neg `y`" in explain_rule("neg-pair", module, [NegPair()])
    assert operators(module) == ["Neg", "Neg"]


def test_an_unknown_rule_names_the_nearest():
    module = parse("g (float[N] x) => (float[N] y) { y = Abs (x) }")
    with pytest.raises(KeyError, match="did you mean `neg-pair`"):
        explain_rule("neg-pare", module, [NegPair()])
    assert "no Neg" in explain_rule("neg-pair", module, [NegPair()])
