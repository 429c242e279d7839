"""The list of models that become engines (`docs/engines.md`) is current, and what it says of a few is tried."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_the_page_says_what_the_results_say(benchmark):
    page = benchmark("engines_page")
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run python tests/benchmarks/engines_page.py"


def test_every_model_is_in_the_list_and_every_refusal_has_a_reason(benchmark):
    engines, results = benchmark("engines"), benchmark("engines_page").load()
    names = [model.name for model in engines.listed()]
    assert set(results["rows"]) == {
        engines.key_of(name, precision, shape)
        for name in names
        for precision in engines.PRECISIONS
        for shape in engines.SHAPES
    }
    assert tuple(results["capabilities"]) == ("sm80", "sm89", "sm120")
    assert all(row.get("reason") for row in results["rows"].values() if not row["ok"])
    # A model that does not build at all would be news; what is refused today is a batch that a file fixes.
    assert all(results["rows"][engines.key_of(name, "float16", "static")]["ok"] for name in names)


@pytest.mark.parametrize(
    ("name", "package"), [("ppocr-v2-cls", "rapidocr_onnxruntime"), ("silero-vad-openvino-16k", "silero_vad")]
)
def test_a_few_are_built_again(benchmark, name, package, tmp_path):
    """A classifier with a dynamic batch, and a file whose batch is fixed: accepted and refused as listed."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the `tensorrt-rtx` extra")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    engines, results = benchmark("engines"), benchmark("engines_page").load()
    skip = {engines.key_of(name, precision, "static") for precision in engines.PRECISIONS}
    found = dict(engines.rows(name, tmp_path, skip))
    assert len(found) == 2
    for key, row in found.items():
        kept = results["rows"][key]
        assert row["ok"] == kept["ok"], key
        assert row.get("reason") == kept.get("reason")
        if row["ok"] and "int8" in key:
            assert any(kind.startswith("i8") for kind in row["precisions"]), key
        elif results["library"] == {"tensorrt_rtx": trt.__version__}:
            assert row.get("precisions") == kept.get("precisions"), key
