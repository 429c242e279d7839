"""Every construct of the language: text in, tree out."""

from __future__ import annotations

import pytest
from mopt.grammar import Source, parse, syntax
from mopt.grammar.format import value_text
from mopt.grammar.parse import parse_value
from mopt.grammar.source import Span

S = Source("s", "")
NOWHERE = Span(S, 0, 0)


def statements(text):
    parsed = parse(Source("t.mopt", text))
    assert parsed.diagnostics == ()
    return parsed.tree.statements


def value(text):
    node, diagnostics = parse_value(Source("v", text))
    assert diagnostics == ()
    return node


def ref(text, cut=None):
    return syntax.Reference(NOWHERE, tuple(syntax.Name(NOWHERE, part) for part in text.split(".")), cut)


def num(number, unit="", text=None):
    return syntax.Number(NOWHERE, number, unit, text or f"{number}{unit}")


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("3", num(3)),
        ("-3", num(-3)),
        ("1_000", num(1000, text="1_000")),
        ("0.5", num(0.5)),
        ("1e-3", num(0.001, text="1e-3")),
        ("30%", num(30, "%")),
        ("0.5%", num(0.5, "%")),
        ("10ms", num(10, "ms")),
        ("2.5e1min", num(25.0, "min", "2.5e1min")),
        ("4MiB", num(4, "MiB")),
        ("2:4", syntax.NofM(NOWHERE, 2, 4)),
        ("true", syntax.Boolean(NOWHERE, True)),
        ("false", syntax.Boolean(NOWHERE, False)),
        (r'"a \"b\" \\ \n\t"', syntax.String(NOWHERE, 'a "b" \\ \n\t')),
        ('""', syntax.String(NOWHERE, "")),
        ("[]", syntax.ListValue(NOWHERE, ())),
        ("[1, [2],]", syntax.ListValue(NOWHERE, (num(1), syntax.ListValue(NOWHERE, (num(2),))))),
        ("{}", syntax.MapValue(NOWHERE, ())),
        (
            '{a: 1, "b.c": 2,}',
            syntax.MapValue(
                NOWHERE,
                (
                    syntax.Entry(NOWHERE, syntax.Name(NOWHERE, "a"), num(1)),
                    syntax.Entry(NOWHERE, syntax.String(NOWHERE, "b.c"), num(2)),
                ),
            ),
        ),
        (
            "f32[N, 3]",
            syntax.TensorValue(NOWHERE, syntax.Name(NOWHERE, "f32"), (syntax.Name(NOWHERE, "N"), num(3))),
        ),
        ("i64[]", syntax.TensorValue(NOWHERE, syntax.Name(NOWHERE, "i64"), ())),
        ("entropy", ref("entropy")),
        ("captcha.calib", ref("captcha.calib")),
        ("captcha.calib[:256]", ref("captcha.calib", syntax.Slice(NOWHERE, None, num(256)))),
        ("captcha.calib[8:]", ref("captcha.calib", syntax.Slice(NOWHERE, num(8), None))),
        ("captcha.calib[:]", ref("captcha.calib", syntax.Slice(NOWHERE, None, None))),
        (
            "captcha.calib[a:b]",
            ref("captcha.calib", syntax.Slice(NOWHERE, syntax.Name(NOWHERE, "a"), syntax.Name(NOWHERE, "b"))),
        ),
        ("any(10%, l1)", syntax.AnyValue(NOWHERE, (num(10, "%"), ref("l1")))),
        ("data.model.loss", ref("data.model.loss")),
        ("größe", ref("größe")),
        ("gro\u0308sse", ref("grösse")),
    ],
)
def test_values(text, node):
    assert value(text) == node
    assert value(value_text(node)) == node


@pytest.mark.parametrize("text", ["", "1 2", "[1", "a b", ")", "1:", "f32[N", "any(", "{1: 2}", "a[1:2][3:4]", "- 1 2"])
def test_what_is_no_value(text):
    node, diagnostics = parse_value(Source("v", text))
    assert node is None
    assert diagnostics


def test_every_statement():
    found = statements(
        """
        recipe "title" import "common.mopt" seed 7 param p = 1
        model m = onnx("m.onnx") data d = npz("d.npz") loss l = mse() metric e = cer()
        app a = python("a.py:A", part=m) target t = ort()
        evaluate(data=d, metrics=[e]) profile(batch=1)
        pipeline q = m { simplify() require e <= 1 }
        """
    )
    kinds = ["Title", "Import", "Seed", "Param", *["Declaration"] * 6, *["Settings"] * 2, "Pipeline"]
    assert [type(one).__name__ for one in found] == kinds
    declared = [one.kind for one in found if isinstance(one, syntax.Declaration)]
    assert declared == ["model", "data", "loss", "metric", "app", "target"]


def test_keywords_are_names_where_a_name_is_expected():
    (pipeline,) = statements("pipeline data = model { tune(data=data.train, loss=loss, metric=metric, seed=seed) }")
    assert pipeline.name.text == "data"
    assert pipeline.parent == ref("model")
    arguments = pipeline.steps[0].call.arguments
    assert [one.name.text for one in arguments] == ["data", "loss", "metric", "seed"]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("a <= b + c * d", "(a <= (b + (c * d)))"),
        ("a - b - c >= 0", "(((a - b) - c) >= 0)"),
        ("a / b * c < 1", "(((a / b) * c) < 1)"),
        ("(a + b) * c == -1", "(((a + b) * c) == -1)"),
        ("a - (b - c) != 2", "((a - (b - c)) != 2)"),
        ("x.size > 30% * y.size", "(x.size > (30% * y.size))"),
    ],
)
def test_arithmetic(text, shape):
    def show(node):
        if isinstance(node, syntax.Binary):
            return f"({show(node.left)} {node.operator} {show(node.right)})"
        return node.text

    (pipeline,) = statements(f"pipeline p = m {{ require {text} }}")
    step = pipeline.steps[0]
    assert f"({show(step.left)} {step.operator} {show(step.right)})" == shape


def test_a_condition_on_a_target():
    (pipeline,) = statements("pipeline p = m { require on.size <= 2 * size on on on() }".replace(" on()", " f()"))
    step, call = pipeline.steps
    assert (step.target.text, step.span.text) == ("on", "require on.size <= 2 * size on on")
    assert call.call.name == "f"
    (pipeline,) = statements("pipeline p = m { require size <= 1 }")
    assert pipeline.steps[0].target is None


def test_line_breaks_mean_nothing():
    text = 'pipeline p = m { prune.magnitude(amount=30%, skip=["a", "b"]) require size <= 1MiB }'
    assert statements(text) == statements(text.replace(" ", "\n"))
    assert statements(text) == statements(text.replace(" ", "\r\n\t"))


def test_spans_say_what_stands_there():
    text = 'model crnn = torch("m.py:A", inputs={image: f32[N, 3]})  # comment'
    parsed = parse(Source("t.mopt", text))
    (model,) = parsed.tree.statements
    assert model.span.text == text[: text.index("  #")]
    assert model.name.span.text == "crnn"
    assert model.call.name_span.text == "torch"
    assert [one.span.text for one in model.call.arguments] == ['"m.py:A"', "inputs={image: f32[N, 3]}"]
    assert model.call.arguments[1].value.entries[0].value.span.text == "f32[N, 3]"
    assert [one.text for one in parsed.tree.comments] == ["# comment"]


def test_a_hash_in_a_text_is_no_comment():
    (param,) = statements('param p = "# not a comment"')
    assert param.value.value == "# not a comment"
