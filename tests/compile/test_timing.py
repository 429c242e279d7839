"""Rows that this machine can't time: they say why, ask for exit status 4, and are tried again."""

import json

import pytest
from mopt.runtime.contract import TargetError
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_target import OrtTarget

HEAD = """
model linear = example(size=64)
profile(batch=[1, 32], runs=4, warmup=1, seconds=0)
"""
BODY = "pipeline plain = linear { }"


@pytest.fixture
def full(monkeypatch):
    """A device that holds so many samples and no more."""
    run = OrtRunner.run
    holds = [2]

    def too_large(self, feeds):
        if len(feeds["x"]) > holds[0]:
            raise TargetError("the device has no memory left", missing=True, help="feed smaller batches")
        return run(self, feeds)

    monkeypatch.setattr(OrtRunner, "run", too_large)
    return holds


def test_no_memory_for_a_batch_keeps_the_others_and_exits_with_4(compiled, full):
    results = compiled(BODY, head=HEAD, profile="auto")
    row = compiled.rows(results)["plain"]
    assert results.exit_status == 4
    assert set(row.latency) == {1}
    assert row.failure.kind == "target"
    assert row.failure.message == "not timed: batch 32: the device has no memory left"
    assert row.status == "ok" and row.artifact
    assert "(feed smaller batches)" in compiled.log
    assert json.loads((compiled.folder / "out" / "results.json").read_text(encoding="utf-8"))["exit_status"] == 4
    full[0] = 32
    again = compiled(BODY, head=HEAD, profile="auto")
    assert again.exit_status == 0, "what did not fit is not remembered"
    assert set(compiled.rows(again)["plain"].latency) == {1, 32}


def test_a_model_that_can_not_be_opened_is_no_silent_gap(compiled, monkeypatch):
    def nothing(*_, **__):
        raise TargetError("libcublas is not here", missing=True, help="install it")

    monkeypatch.setattr("mopt.runtime.ort_target.OrtTarget.open", nothing)
    results = compiled(BODY, head=HEAD, profile="auto")
    assert results.exit_status == 4
    assert "not timed: libcublas is not here" in compiled.rows(results)["plain"].failure.message


def test_a_model_that_its_target_refuses_fails_alone(compiled, monkeypatch):
    """It was emitted, so only opening it tells; the other rows are timed."""
    opened = OrtTarget.open

    def one(self, artifact):
        if artifact.bytes == compiled.refused:
            raise TargetError("onnxruntime refuses the model: it is not to its taste")
        return opened(self, artifact)

    body = "pipeline plain = linear { }  pipeline half = plain { convert.float16() }"
    compiled.refused = compiled.rows(compiled(body, head=HEAD))["half"].bytes
    monkeypatch.setattr(OrtTarget, "open", one)
    results = compiled(body, head=HEAD, profile="auto")
    rows = compiled.rows(results)
    assert results.exit_status == 3
    assert rows["half"].failure.message == "not timed: onnxruntime refuses the model: it is not to its taste"
    assert not rows["half"].latency
    assert set(rows["plain"].latency) == {1, 32} and rows["plain"].failure is None


def test_a_requirement_on_a_time_that_was_not_taken_fails_its_row(compiled, full):
    results = compiled(
        "pipeline plain = linear { } pipeline half = plain { require latency <= plain.latency }",
        head=HEAD.replace("[1, 32]", "[32]"),
        profile="auto",
    )
    assert results.exit_status == 4
    row = compiled.rows(results)["half"]
    assert row.status == "failed" and "batch 32" in row.failure.message
