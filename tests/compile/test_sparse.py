"""Zeros make the file smaller where the target stores them so: the rows of the report, before and after compression."""

from __future__ import annotations

from pathlib import Path

import mopt

RECIPE = """
model classifier = onnx(
    "pkg:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    inputs={x: f32[N, 3, 48, 64]},
)
pipeline whole = classifier { simplify.rules() }
pipeline pruned = whole { prune.magnitude(70%) }
target dense = ort(provider=cpu)
target sparse = ort(provider=cpu, sparse=true)
"""


def test_the_report_shows_raw_and_compressed_sizes_shrink(tmp_path: Path) -> None:
    path = tmp_path / "sparse.mopt"
    path.write_text(RECIPE, encoding="utf-8")
    results = mopt.compile_recipe(path, output=tmp_path / "out", store=tmp_path / "store", profile="never")
    assert results.exit_status == 0
    rows = {(row.pipeline, row.target): row for row in results.rows}
    size = {key: (row.bytes, row.compressed) for key, row in rows.items()}
    assert all(None not in pair for pair in size.values())
    raw, packed = size["pruned", "sparse"]
    dense = size["pruned", "dense"]
    assert raw < 0.55 * dense[0]  # type: ignore[operator]
    assert packed < dense[1] < 0.6 * size["whole", "dense"][1]  # type: ignore[operator]
    # What has no zeros to leave out is stored as it is.
    assert size["whole", "sparse"][0] <= size["whole", "dense"][0]  # type: ignore[operator]
    assert dense[0] == size["whole", "dense"][0]
