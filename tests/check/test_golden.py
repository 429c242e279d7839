"""One broken recipe a code, beside it the exact text it is answered with.

`golden/CODE_name.mopt` is checked (with what its first line says behind `# --set`), `golden/CODE_name.txt` holds
the rendered diagnostics. To take over what the checker says now: `MOPT_GOLDEN=write pytest tests/check/test_golden.py`,
and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mopt.check import check
from mopt.grammar import CATALOGUE, render

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted({path.stem for path in GOLDEN.iterdir() if path.stem[:2] == "E0"})


def _overrides(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    first = path.read_bytes().split(b"\n")[0].decode("latin-1")
    return dict([first.removeprefix("# --set ").split("=")]) if first.startswith("# --set ") else {}


@pytest.mark.parametrize("case", CASES)
def test_answers_with_exactly_this_text(case, fakes, monkeypatch):
    monkeypatch.chdir(GOLDEN)
    monkeypatch.setenv("HF_HUB_CACHE", "no-cache-here")
    path = Path(f"{case}.mopt")
    result = check(path, _overrides(path), fakes)
    text = render(result.diagnostics, width=100)
    expected = GOLDEN / f"{case}.txt"
    if os.environ.get("MOPT_GOLDEN") == "write":
        expected.write_text(text, encoding="utf-8")
    assert text == expected.read_text(encoding="utf-8")
    assert case[:5] in {one.code for one in result.diagnostics}
    assert result.ok == all(one.severity == "warning" for one in result.diagnostics)


def test_every_code_has_a_golden_recipe():
    assert {case[:5] for case in CASES} == set(CATALOGUE)


def test_no_golden_text_is_left_behind():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)
