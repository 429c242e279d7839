"""Several mistakes in one text are all reported, each once, and what is right around them is understood."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mopt.grammar import Source, parse, syntax


def test_mistakes_in_four_statements_and_three_steps():
    parsed = parse(
        Source(
            "t.mopt",
            "\n".join(
                (
                    "model a = onnx(",  # never closed
                    'data b = npz("b.npz")',
                    "pipeline p = a {",
                    "    one(x==1)",  # ==
                    "    two()",
                    "    three(y=[1, 2)",  # [ never closed
                    "    require size <=",  # no right side
                    "    four(z=1)",
                    "}",
                    "target t ort()",  # no =
                    "profile(batch=1)",
                )
            ),
        )
    )
    assert [one.primary.span.line for one in parsed.diagnostics] == [2, 4, 6, 7, 10]
    names = [one.name.text for one in parsed.tree.statements if isinstance(one, syntax.Declaration)]
    assert names == ["b"]
    pipeline = next(one for one in parsed.tree.statements if isinstance(one, syntax.Pipeline))
    assert [one.call.name for one in pipeline.steps] == ["two", "four"]
    assert isinstance(parsed.tree.statements[-1], syntax.Settings)
    assert {"a", "t"} <= parsed.lost


def test_a_pipeline_without_its_brace_still_counts():
    parsed = parse(Source("t.mopt", "pipeline a = m {\n    one()\n\npipeline b = a { }\n"))
    assert [one.code for one in parsed.diagnostics] == ["E0108"]
    assert [one.name.text for one in parsed.tree.statements] == ["a", "b"]
    assert len(parsed.tree.statements[0].steps) == 1


def test_an_option_left_unfinished_does_not_swallow_the_next_statement():
    parsed = parse(Source("t.mopt", "evaluate(data=x,\npipeline b = a { }\n"))
    assert [one.code for one in parsed.diagnostics] == ["E0108"]
    assert [type(one).__name__ for one in parsed.tree.statements] == ["Pipeline"]


def test_reports_end_after_a_hundred():
    parsed = parse(Source("t.mopt", "modell x = y()\n" * 50_000))
    assert len(parsed.diagnostics) == 100


WORDS = """
    pipeline model data require any true seed import recipe evaluate profile param target app name name.part é
    ( ) [ ] { } , : . = == <= + - * / # " ' % ; 1 2.5 30% 10xs 4MiB "text" \\ simplify()
"""
PIECES = [*WORDS.split(), "\0", "\n", "\n", "pipeline p = m {"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_nothing_breaks_the_parser(pieces):
    parsed = parse(Source("t.mopt", " ".join(pieces)))
    for one in parsed.diagnostics:
        assert one.primary is not None
        assert 0 <= one.primary.span.start <= one.primary.span.end <= len(parsed.tree.source.text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_nothing_at_all_breaks_the_parser(text):
    parse(Source("t.mopt", text))


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        ")" * 100_000,
        "[" * 10_000 + "]" * 10_000,
        "param x = " + "[" * 10_000 + "]" * 10_000,
        "param x = " + "{a: " * 10_000 + "1" + "}" * 10_000,
        "param x = " + "any(" * 10_000,
        "pipeline p = m { require " + "(" * 10_000 + "size" + ")" * 10_000 + " <= 1 }",
        "pipeline p = m { require size" + " + 1" * 10_000 + " <= 1 }",
        "pipeline p = m { " * 5_000,
        '"' + ")" * 100_000 + "x",
        "param x = 1" + "0" * 100_000,
        "param x = " + ".".join(["a"] * 50_000),
    ],
    ids=lambda text: text[:24],
)
def test_hostile_texts_take_no_time(text):
    start = time.process_time()
    parsed = parse(Source("t.mopt", text))
    assert time.process_time() - start < 5
    assert all(one.code.startswith("E01") for one in parsed.diagnostics)


@pytest.mark.parametrize("depth", [64, 65, 10_000])
def test_the_depth_of_brackets(depth):
    parsed = parse(Source("t.mopt", "param x = " + "[" * depth + "]" * depth + "\nparam y = 1"))
    assert [one.code for one in parsed.diagnostics] == ([] if depth <= 64 else ["E0105"])
    assert [one.name.text for one in parsed.tree.statements] == ["x", "y"]
