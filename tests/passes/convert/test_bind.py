"""Fixed sizes and values: branches on them are decided, and the model computes what it did."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.ir import load
from mopt.passes.contract import PassError
from mopt.passes.convert.bind import Bind
from mopt.passes.simplify.rules import Rules
from mopt.runtime.ort import OrtRunner
from mopt.values import Location


class Context:
    seed, bindings = 0, {}

    @staticmethod
    def progress(label, total=None):
        import contextlib

        return contextlib.nullcontext()


@pytest.fixture(scope="module")
def silero():
    return load(Location("pkg:silero_vad/data/silero_vad.onnx").resolve())


def branches(module):
    return sum(node.op_type == "If" for node in module.nodes())


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_bound_sampling_rate_and_width_leave_no_branch(silero, rate):
    width = rate // 8000 * 288
    sequence = silero.inputs[0].shape[1]
    bound = Bind(sizes={str(sequence): width}, values={"sr": rate}).run(silero.clone(), Context)
    assert bound.modified and f"sr = {rate}" in bound.notes[0].message
    module = Rules().run(bound.module, Context).module
    assert branches(silero) > 10 and branches(module) == 0
    assert [port.name for port in module.inputs] == [port.name for port in silero.inputs]
    assert module.inputs[0].shape[1] == width
    for batch in (1, 3):
        rng = np.random.default_rng(batch)
        feeds = {
            "input": rng.uniform(-1, 1, (batch, width)).astype(np.float32),
            "state": rng.uniform(-1, 1, (2, batch, 128)).astype(np.float32),
            "sr": np.array(rate, np.int64),
        }
        expected = OrtRunner(silero).run(feeds)
        for name, array in OrtRunner(module).run(feeds).items():
            np.testing.assert_allclose(array, expected[name], atol=1e-5)


def test_what_belongs_to_another_model_changes_nothing(silero):
    assert not Bind(sizes={"H": 3}, values={"rate": 1}).run(silero.clone(), Context).modified


def test_impossible_bindings_are_told(silero):
    with pytest.raises(PassError, match="`sequence` 0"):
        Bind(sizes={"sequence": 0}).run(silero.clone(), Context)
    with pytest.raises(PassError, match=r"`sr` is int64 and can't be 0\.5"):
        Bind(values={"sr": 0.5}).run(silero.clone(), Context)
    with pytest.raises(PassError, match="its shape is not fixed"):
        Bind(values={"input": 0}).run(silero.clone(), Context)
