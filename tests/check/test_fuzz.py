"""Whatever is put together of the language's parts, the checker answers and does not break."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mopt.check import check
from mopt.grammar import CATALOGUE, render

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["crnn", "text", "mse", "cer", "amount", "many", "p", "q", "r", "l1", "size", "nothing"]
names = st.sampled_from(NAMES)
LEAVES = """
    3 -1 0.5 30% 130% 2:4 4:2 10ms 4MiB true 1e999 f32[N,3] float[0] text.train text.a[:3] text[3:1] p.size
    many.x[many:amount] "model.onnx" "model.py:A" "nope.py:A" "pkg:lark/x" "hf:a/b" "" "*"
"""
OPTIONS = """
    amount criterion skip data loss epochs rate best teacher method bits pattern extra dynamic opset path model inputs
    args metrics batch pipelines targets bind runs seed shapes function goal provider
"""
PLUGINS = """
    simplify convert prune.magnitude prune.channels prune.nm tune distill.response quantize.static cluster.kmeans
    broken prune onnx torch python random mse ctc focal cer accuracy ort trt nothing
"""
leaves = st.sampled_from([*LEAVES.split(), *NAMES])
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda found: f"[{', '.join(found)}]"),
        st.lists(inner, max_size=3).map(lambda found: f"any({', '.join(found)})"),
        st.lists(st.tuples(names, inner).map(": ".join), max_size=2).map(lambda found: "{" + ", ".join(found) + "}"),
    ),
    max_leaves=4,
)
options = st.sampled_from(OPTIONS.split())
arguments = st.lists(st.one_of(values, st.tuples(options, values).map("=".join)), max_size=4).map(", ".join)
plugins = st.sampled_from(PLUGINS.split())
calls = st.tuples(plugins, arguments).map(lambda two: f"{two[0]}({two[1]})")
terms = st.sampled_from(["size", "latency", "cer", "p.size", "q.mse", "amount", "many", "1%", "3", "4MiB", "nothing.x"])
conditions = st.tuples(terms, st.sampled_from("+-*/"), terms, terms, st.sampled_from(["", "on t", "on p"])).map(
    lambda five: f"require {five[0]} {five[1]} {five[2]} <= {five[3]} {five[4]}"
)
parents = st.one_of(names, st.lists(names, max_size=3).map(lambda found: f"any({', '.join(found)})"))
statements = st.one_of(
    st.tuples(names, values).map(lambda two: f"param {two[0]} = {two[1]}"),
    st.tuples(st.sampled_from(["model", "data", "loss", "metric", "app", "target"]), names, calls).map(
        lambda three: f"{three[0]} {three[1]} = {three[2]}"
    ),
    st.tuples(st.sampled_from(["evaluate", "profile"]), arguments).map(lambda two: f"{two[0]}({two[1]})"),
    st.tuples(names, parents, st.lists(st.one_of(calls, conditions), max_size=4)).map(
        lambda three: f"pipeline {three[0]} = {three[1]} {{\n" + "\n".join(three[2]) + "\n}"
    ),
    st.sampled_from(['import "common.mopt"', "seed 3", "seed amount", "pipeline p = {", 'recipe "x"']),
)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(statements, max_size=7).map("\n".join), st.dictionaries(names, leaves, max_size=1))
def test_the_checker_answers(fakes, text, overrides):
    path = GOLDEN / "fuzz.mopt"
    text = 'model crnn = onnx("model.onnx")\ndata text = python("data.py:text")\n' + text
    from mopt.check import loading

    original = loading.read

    def read(file, shown=None):
        from mopt.grammar.read import decode

        return decode(text.encode(), "fuzz.mopt") if file == path else original(file, shown)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "read", read)
        result = check(path, overrides, fakes)
    assert result.ok == (not any(one.severity == "error" for one in result.diagnostics))
    assert {one.code for one in result.diagnostics} <= set(CATALOGUE)
    assert render(result.diagnostics).count("[E0") >= len(result.diagnostics)
    if result.recipe is not None:
        for pipeline in result.recipe.pipelines.values():
            assert pipeline.parent in result.recipe.pipelines or pipeline.parent in result.recipe.models
