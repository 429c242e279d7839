"""`quickstart.mopt`, compiled from end to end as its reader does it, but without timing."""

from __future__ import annotations

from pathlib import Path

import mopt
import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra `torch`")
    results = mopt.compile_recipe(
        RECIPES / "quickstart.mopt", output=tmp_path / "out", store=tmp_path / "store", profile="never"
    )
    rows = {row.pipeline: row for row in results.rows}
    assert list(rows) == ["original", "simplified", "float16", "pruned", "int8", "int8_static"]
    assert {row.target for row in results.rows} == {"cpu"}
    assert results.exit_status == 0, [row.failure or row.requirements for row in results.rows]
    assert rows["original"].metrics["accuracy"] >= 0.985
    assert rows["float16"].bytes < 0.55 * rows["original"].bytes
    assert rows["int8"].bytes < 0.4 * rows["original"].bytes
    assert rows["int8_static"].bytes < 0.4 * rows["original"].bytes
    assert rows["pruned"].nonzero < 0.65 * rows["original"].nonzero
    assert rows["pruned"].compressed < 0.75 * rows["original"].compressed
    assert all((tmp_path / "out" / name / "cpu" / "model.onnx").is_file() for name in rows)
