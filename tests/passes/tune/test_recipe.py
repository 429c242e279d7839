"""`tune` in recipes: what the checker lets through, and what it refuses without running anything."""

from __future__ import annotations

import pytest
from mopt.check import check

HEAD = """
model net = onnx("net.onnx")
data scans = python("data.py:data")
loss mine = python("data.py:loss")
loss spelling = ctc(charset=["0123456789"])
"""


@pytest.fixture
def checked(tmp_path):
    (tmp_path / "net.onnx").touch()
    (tmp_path / "data.py").write_text("def data(): ...\ndef loss(outputs, targets): ...\n", encoding="utf-8")

    def run(*steps):
        path = tmp_path / "r.mopt"
        used = "pipeline other = net { tune(data=scans.train, loss=mine) tune(data=scans.train, loss=spelling) }"
        path.write_text(f"{HEAD}{used}\npipeline p = net {{ {' '.join(steps)} }}\n", encoding="utf-8")
        return check(path, {})

    return run


@pytest.mark.parametrize(
    "options",
    [
        "loss=mine",
        "loss=spelling, steps=100, schedule=step, drops=[30%, 60%], drop=0.2",
        "loss=cross_entropy, validation=scans.held, monitor=accuracy, patience=2, every=50",
        "loss=cross_entropy, validation=scans.train[900:], monitor=mine",
        "loss=mse, checkpoint=5min, warmup=10%, clip=1.0, seed=3, nan=keep, only=[\"head*\"]",
    ],
)  # fmt: skip
def test_options_that_are_right(checked, options):
    found = checked(f"tune(data=scans.train, {options})")
    assert found.ok, found.diagnostics


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("loss=accuracy", "E0201"),
        ("loss=scans", "E0306"),
        ("epochs=3", "E0404"),
        ("loss=mse, epochs=0", "E0303"),
        ("loss=mse, optimizer=lamb", "E0302"),
        ("loss=mse, warmup=0.1", "E0301"),
        ("loss=mse, monitor=accuracy", "E0314"),
        ("loss=mse, validation=scans.train", "E0314"),
    ],
)
def test_options_that_are_wrong(checked, options, code):
    found = checked(f"tune(data=scans.train, {options})")
    assert code in {diagnostic.code for diagnostic in found.diagnostics}


def test_it_may_follow_pruning_clustering_and_quantisation(checked):
    found = checked("prune.magnitude(amount=50%)", "cluster.kmeans(clusters=16)", "tune(data=scans.train, loss=mine)")
    assert found.ok
    assert not found.diagnostics
    assert checked("quantize.static(data=scans.calib)", "tune(data=scans.train, loss=mine)").ok
