"""Pruning, clustering and quantisation in every order: what can hold keeps its promises, the rest is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import mopt
import pytest
from mopt.check import check

MODEL = """
model classifier = onnx(
    "pkg:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    inputs={x: f32[N, 3, 48, 64]},
)
data noise = random(inputs={x: f32[N, 3, 48, 64]}, samples=4)
"""
PRUNE, CLUSTER = "prune.magnitude(50%)", "cluster.kmeans(16, channels=1, min_elements=512)"
STATIC, DYNAMIC = "quantize.static(data=noise.test)", "quantize.dynamic()"
CUT = "prune.channels(20%)"
STAGES = (CUT, PRUNE, CLUSTER, DYNAMIC)
"""In the one order in which all of them can follow each other."""


def recipe(folder: Path, pipelines: dict[str, tuple[str, ...]]) -> Path:
    steps = "".join(f"pipeline {name} = simplified {{ {' '.join(chain)} }}\n" for name, chain in pipelines.items())
    path = folder / "orders.mopt"
    path.write_text(
        f"{MODEL}pipeline simplified = classifier {{ simplify.rules() }}\n{steps}target cpu = ort(provider=cpu)\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("chain", [chain for size in (2, 3, 4) for chain in itertools.permutations(STAGES, size)],
                         ids=lambda chain: "-".join(step.split("(")[0] for step in chain))  # fmt: skip
def test_check_refuses_orders_that_cannot_hold(chain: tuple[str, ...], tmp_path: Path) -> None:
    found = check(recipe(tmp_path, {"one": chain}), {})
    ranks = [STAGES.index(step) for step in chain]
    # Pruning a pruned graph otherwise can hold, though cutting channels undoes the share of zeros, which is a warning.
    wrong = any(a > b and (a, b) != (1, 0) for a, b in itertools.combinations(ranks, 2))
    assert found.ok == (not wrong)
    assert all(one.code == "E0403" and one.help for one in found.diagnostics if one.severity == "error")
    if not wrong:
        assert ((1, 0) in set(itertools.combinations(ranks, 2))) == any(
            one.code == "E0407" for one in found.diagnostics
        )


def test_a_pass_between_may_not_hide_the_order(tmp_path: Path) -> None:
    chains = {"hidden": (CLUSTER, "simplify()", PRUNE), "expanded": (CLUSTER, "cluster.expand()", CUT)}
    found = check(recipe(tmp_path, chains), {})
    assert [one.code for one in found.diagnostics if one.severity == "error"] == ["E0403"]


@pytest.mark.slow
def test_orders_that_can_hold_keep_every_promise(tmp_path: Path) -> None:
    chains = {
        "sparse": (PRUNE,),
        "sparse_static": (PRUNE, STATIC, "simplify.rules()"),
        "sparse_clustered": (PRUNE, CLUSTER, "simplify.rules()"),
        "all_static": (PRUNE, "simplify.rules()", CLUSTER, "simplify.rules()", STATIC, "simplify.rules()"),
        "all_dynamic": (CUT, PRUNE, CLUSTER, DYNAMIC, "simplify.rules()"),
        "cut_clustered": (CLUSTER, "cluster.expand()", CUT),
        "halved": (PRUNE, CLUSTER, "convert.float16()"),
    }
    results = mopt.compile_recipe(
        recipe(tmp_path, chains), output=tmp_path / "out", store=tmp_path / "store", profile="never"
    )
    rows = {row.pipeline: row for row in results.rows}
    # A step that broke a promise of an earlier one would have ended its pipeline.
    assert results.exit_status == 0, [row.failure for row in results.rows if row.failure]
    assert set(rows) == {"simplified", *chains}
    for name in ("sparse", "sparse_static", "sparse_clustered", "all_static", "all_dynamic", "halved"):
        assert rows[name].nonzero <= 0.62 * rows[name].parameters, name
    sizes = {name: row.bytes for name, row in rows.items()}
    assert sizes["sparse_clustered"] < 0.6 * sizes["sparse"]
    assert sizes["all_static"] < sizes["sparse_static"]
    assert sizes["all_dynamic"] < sizes["sparse_clustered"]
    assert sizes["cut_clustered"] < 0.8 * sizes["simplified"]
