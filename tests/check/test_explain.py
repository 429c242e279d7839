"""The explanations are true: the wrong recipe of a page earns its code, the mended one earns nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from mopt.check import check
from mopt.grammar import CATALOGUE, explain

GOLDEN = Path(__file__).parent / "golden"
BLOCK = re.compile(r"```mopt (wrong|mended)(?: --set (\S+))?\n(.*?)```", re.DOTALL)
ABOUT_FILES = {"E0001", "E0002", "E0003", "E0004"}


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_page(code, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    text = explain(code)
    assert text.startswith(f"# {code}: {CATALOGUE[code]}\n")
    blocks = BLOCK.findall(text)
    if code in ABOUT_FILES:
        assert not blocks
        assert "# wrong" in text
        assert "# mended" in text
        return
    assert [kind for kind, _, _ in blocks] == ["wrong", "mended"]
    for name in ("model.onnx", "model.py", "data.py", "common.mopt"):
        shutil.copy(GOLDEN / name, tmp_path)
    for kind, setting, recipe in blocks:
        path = tmp_path / f"{kind}.mopt"
        path.write_text(recipe, encoding="utf-8")
        result = check(path, dict([setting.split("=")]) if setting else {}, fakes)
        codes = {one.code for one in result.diagnostics}
        assert codes == ({code} if kind == "wrong" else set()), result.diagnostics


def test_explain_of_an_unknown_code():
    with pytest.raises(KeyError):
        explain("E9999")


def test_explain_takes_lower_case():
    assert explain("e0204") == explain("E0204")


def test_no_page_is_left_behind():
    from mopt.grammar import codes

    folder = Path(codes.__file__).parent / "explain"
    assert {path.stem for path in folder.glob("*.md")} == set(CATALOGUE)
