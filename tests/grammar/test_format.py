"""The canonical layout: says the same, says it the same way twice, and keeps every comment."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mopt.grammar import ParseError, Source, format_source, parse

MESSY = """\
# at the top


# of the model
model   crnn=torch( "model.py:CRNN" ,weights = "crnn.safetensors",
   inputs={image:f32[N,1,50,200]}) # behind the model
data captcha = python("data.py:Captcha")


evaluate(data=captcha.test,metrics=[cer,ctc],)
pipeline original=crnn{}
pipeline pruned = original { # what it does
  # first
  prune.channels(amount=any(10%,20%),criterion=l1, skip=["rnn*", # the recurrent part
      "head*",
      # nothing more
      ]) # behind the step

  simplify( )
  require   cer<=(original.cer+1%)*2   # must hold
  # last
}
# at the end"""

CANONICAL = """\
# at the top

# of the model
model crnn = torch("model.py:CRNN", weights="crnn.safetensors", inputs={image: f32[N, 1, 50, 200]})  # behind the model
data captcha = python("data.py:Captcha")

evaluate(data=captcha.test, metrics=[cer, ctc])
pipeline original = crnn { }

pipeline pruned = original {  # what it does
    # first
    prune.channels(
        amount=any(10%, 20%),
        criterion=l1,
        skip=[
            "rnn*",  # the recurrent part
            "head*",
            # nothing more
        ],
    )  # behind the step

    simplify()
    require cer <= (original.cer + 1%) * 2  # must hold
    # last
}

# at the end
"""


def test_a_messy_recipe():
    assert format_source(MESSY) == CANONICAL
    assert format_source(CANONICAL) == CANONICAL


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("\n\n", ""),
        ("# only a comment", "# only a comment\n"),
        ("\ufeffseed 7", "seed 7\n"),
        ("seed 7\r\nparam a = 1\r\n", "seed 7\nparam a = 1\n"),
        ("seed 7\rparam a = 1", "seed 7\nparam a = 1\n"),
        ("seed # why\n 7", "# why\nseed 7\n"),
        ("param a\n=\n-1", "param a = -1\n"),
        ("param a = {x: # why\n 1}", "param a = {\n    # why\n    x: 1,\n}\n"),
        ("pipeline a = b { # empty\n}", "pipeline a = b {  # empty\n}\n"),
        ('param a = "\\"\\\\\\n\\t"', 'param a = "\\"\\\\\\n\t"\n'),
        ("profile()# c", "profile()  # c\n"),
        ("profile(# c\n)", "profile(\n    # c\n)\n"),
    ],
)
def test_small_things(text, canonical):
    assert format_source(text) == canonical
    assert format_source(canonical) == canonical


def test_long_calls_are_broken_and_short_ones_joined():
    long = "profile(batch=[" + ", ".join(str(number) for number in range(60)) + "])\n"
    broken = format_source(long)
    assert max(len(line) for line in broken.splitlines()) <= 100
    assert format_source(broken) == broken
    assert format_source("profile(\n  batch=[\n 1,\n 2,\n ],\n)") == "profile(batch=[1, 2])\n"


def test_bytes_must_be_utf8():
    assert format_source("# é".encode()) == "# é\n"
    with pytest.raises(ParseError) as raised:
        format_source("# é".encode("latin-1"), "x.mopt")
    assert raised.value.diagnostics[0].code == "E0003"


def test_what_is_no_recipe_is_refused_with_its_place():
    with pytest.raises(ParseError) as raised:
        format_source("model a = = b()", "x.mopt")
    (one,) = raised.value.diagnostics
    assert (one.primary.span.path, one.primary.span.line, one.primary.span.column) == ("x.mopt", 1, 11)


# Random recipes

names = st.sampled_from(["a", "model", "data", "größe", "x_1", "loss", "evaluate"])
plain = st.sampled_from(["a", "foo", "größe", "x_1"])
texts = st.text(alphabet='ab "\\#/\té\n', max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
)
paths = st.lists(names, min_size=1, max_size=3).map(".".join)
leaves = st.one_of(
    st.integers(-5, 10**6).map(str),
    st.sampled_from(["0.5", "1e-3", "30%", "-4MiB", "10ms", "2:4", "true", "false", "f32[]", "f32[N, 3]"]),
    st.sampled_from(["a.b[:256]", "a.b[x:]", "a.b[:]"]),
    texts,
    paths,
)


def _joined(items, opening, closing):
    return st.lists(items, max_size=3).map(lambda found: opening + ",".join(found) + closing)


values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        _joined(inner, "[", "]"),
        _joined(inner, "any(", ")"),
        _joined(st.tuples(st.one_of(names, texts), inner).map(":".join), "{", "}"),
    ),
    max_leaves=8,
)
arguments = st.one_of(values, st.tuples(names, values).map("=".join))
calls = st.tuples(plain, _joined(arguments, "(", ")")).map("".join)
terms = st.recursive(
    st.sampled_from(["size", "a.cer", "1%", "-3", "4MiB"]),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda three: f"({three[0]}{three[1]} {three[2]})"
    ),
    max_leaves=5,
)
comparisons = st.sampled_from(["<=", ">=", "<", ">", "==", "!="])
conditions = st.tuples(terms, comparisons, terms, st.sampled_from(["", "on  cpu", "on\non"])).map(
    lambda four: "require " + " ".join(four)
)
statements = st.one_of(
    texts.map(lambda text: f"recipe {text}"),
    texts.map(lambda text: f"import {text}"),
    values.map(lambda value: f"seed {value}"),
    st.tuples(names, values).map(lambda two: f"param {two[0]} = {two[1]}"),
    st.tuples(st.sampled_from(["model", "data", "loss", "metric", "app", "target"]), names, calls).map(
        lambda three: f"{three[0]} {three[1]} = {three[2]}"
    ),
    st.tuples(st.sampled_from(["evaluate", "profile"]), _joined(arguments, "(", ")")).map("".join),
    st.tuples(names, paths, st.lists(st.one_of(calls, conditions), max_size=3)).map(
        lambda three: f"pipeline {three[0]} = {three[1]} {{ {' '.join(three[2])} }}"
    ),
)


@st.composite
def recipes(draw):
    """A recipe with line breaks, blank lines and comments wherever the language lets them stand."""
    text = "\n".join(draw(st.lists(statements, max_size=4)))
    parsed = parse(Source("t", text))
    assert parsed.ok, (text, parsed.diagnostics)
    out, count, quoted = [], 0, False
    for index, char in enumerate(text):
        quoted ^= char == '"' and (len(text[:index]) - len(text[:index].rstrip("\\"))) % 2 == 0
        out.append(char)
        if quoted or char not in ' (),{}[]\n"':
            continue
        gap = draw(st.sampled_from(["", "", "", "", "", " ", "\n", "\n\n\n", "\t", "\r\n", "# {}\n", "\n  # {}\r\n"]))
        count += "#" in gap
        out.append(gap.format(f"comment {count}"))
    return "".join(out), count


@settings(max_examples=150, deadline=None)
@given(recipes())
def test_the_layout_says_the_same_and_keeps_every_comment(recipe):
    text, count = recipe
    before = parse(Source("t", text))
    assert before.ok
    formatted = format_source(text)
    after = parse(Source("t", formatted))
    assert after.ok
    assert after.tree == before.tree
    assert format_source(formatted) == formatted
    assert sorted(one.text for one in after.tree.comments) == sorted(one.text for one in before.tree.comments)
    assert len(after.tree.comments) == count
    assert formatted == "" or formatted.endswith("\n")
    assert not any(line != line.rstrip() for line in formatted.splitlines() if '"' not in line)
