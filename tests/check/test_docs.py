"""The language page and the page of diagnostics tell the truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mopt.check import check
from mopt.check.measures import MEASURES
from mopt.grammar import Source, format_source, parse
from mopt.grammar.catalogue_page import page
from mopt.grammar.tokens import RESERVED, UNITS
from mopt.values import DTYPES

DOCS = Path(__file__).resolve().parents[2] / "docs"
LANGUAGE = (DOCS / "language.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"```mopt\n(.*?)```", LANGUAGE, re.DOTALL)


def test_the_page_of_diagnostics_is_current():
    written = (DOCS / "diagnostics.md").read_text(encoding="utf-8")
    assert written == page(), "run `python -m mopt.grammar.catalogue_page`"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda text: text.split("\n")[0])
def test_recipes_check_with_what_is_built_in(recipe, tmp_path):
    for name in ("model.py", "data.py", "model.onnx", "cnn.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "common.mopt").write_text('model crnn = onnx("model.onnx")\n')
    path = tmp_path / "recipe.mopt"
    path.write_text(recipe, encoding="utf-8")
    result = check(path)
    assert result.ok, result.diagnostics
    assert {one.code for one in result.diagnostics} <= {"E0701"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda text: text.split("\n")[0])
def test_recipes_are_in_the_canonical_layout(recipe):
    assert parse(Source("docs", recipe)).ok
    assert format_source(recipe) == recipe


def test_variants_are_as_the_page_says(tmp_path):
    recipe = next(one for one in RECIPES if "any(20%, 40%)" in one)
    (tmp_path / "model.onnx").touch()
    path = tmp_path / "recipe.mopt"
    path.write_text(recipe, encoding="utf-8")
    pipelines = check(path).recipe.pipelines
    counts = {kind: sum(one.declared == kind for one in pipelines.values()) for kind in ("pruned", "int8", "half")}
    assert counts == {"pruned": 4, "int8": 4, "half": 5}
    for name in re.findall(r"`((?:pruned|half)\[.*?\])`", LANGUAGE):
        assert name in pipelines


def test_nothing_of_the_language_is_left_out():
    for word in (*RESERVED, *UNITS, *DTYPES, *MEASURES):
        assert f"`{word}`" in LANGUAGE or f"`{word}(" in LANGUAGE or f"`30{word}`" in LANGUAGE or word == "μs", word
