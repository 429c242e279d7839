"""A distillation that was cut off goes on where it stopped, to the same bits; projections are part of it."""

from __future__ import annotations

import pytest
from mopt.passes.distill.features import Features
from mopt.passes.distill.response import Response
from mopt.runtime.judge.losses import CrossEntropy
from mopt.values import DataRef, Duration, LossRef, ModelRef

PASSES = {
    "response": (Response, {}),
    "features": (Features, {"layers": ("n3", "n5")}),
    "features offline": (Features, {"layers": ("n5",), "mode": "offline"}),
}


@pytest.mark.parametrize("kind", list(PASSES))
def test_killed_in_the_middle_of_an_epoch(student, context, monkeypatch, kind, tmp_path):
    make, more = PASSES[kind]
    operation = make(
        data=DataRef("scans", "train"), teacher=ModelRef("large"), loss=LossRef("cross_entropy"), steps=26, rate=5e-3,
        device="cpu", checkpoint=Duration(0), **more,
    )  # fmt: skip
    plain, calls, dies = CrossEntropy.__call__, [], {"at": 0}

    def counted(self, outputs, targets):
        calls.append(1)
        if len(calls) == dies["at"]:
            raise KeyboardInterrupt
        return plain(self, outputs, targets)

    monkeypatch.setattr(CrossEntropy, "__call__", counted)
    whole = context()
    whole.checkpoints = tmp_path / "whole"
    expected = {w.name: w.numpy().tobytes() for w in operation.run(student(), whole).module.weights()}
    assert len(calls) == 26
    cut, calls[:] = context(), []
    for step in (9, 14):
        calls.clear()
        dies["at"] = step
        with pytest.raises(KeyboardInterrupt):
            operation.run(student(), cut)
    dies["at"] = 0
    calls.clear()
    found = operation.run(student(), cut)
    assert len(calls) == 26 - 8 - 13
    assert {w.name: w.numpy().tobytes() for w in found.module.weights()} == expected
