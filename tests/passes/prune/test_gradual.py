"""Pruning in steps with training in between: what is reached, what it is worth, and going on after a kill."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
pytest.importorskip("accelerate", reason="needs the extra `torch`")

sys.path.insert(0, str(Path(__file__).parent))

from mopt.analysis.cost import cost  # noqa: E402
from mopt.analysis.coupling import groups  # noqa: E402
from mopt.check import check  # noqa: E402
from mopt.ir import verify  # noqa: E402
from mopt.passes.contract import PassError  # noqa: E402
from mopt.passes.prune.channels import Channels  # noqa: E402
from mopt.passes.prune.gradual_run import shares  # noqa: E402
from mopt.passes.prune.magnitude import Magnitude  # noqa: E402
from mopt.passes.prune.nm import NM  # noqa: E402
from mopt.plugin.options import schema  # noqa: E402
from mopt.values import DataRef, MetricRef, NofM, Ratio  # noqa: E402
from trained_digits import SPLITS, TRAINING, accuracy, context_in, trained  # noqa: E402

GRADUAL = {**TRAINING, "rate": 3e-3}
PASSES = {
    "magnitude": lambda **options: Magnitude(Ratio(0.9), **options),
    "nm": lambda **options: NM(NofM(1, 4), **options),
    "channels": lambda **options: Channels(Ratio(0.5), **options),
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def weight(module, name):
    return next(one.numpy() for one in module.weights() if one.name == name)


def test_shares_rise_to_one():
    assert shares(4, "linear") == (0.25, 0.5, 0.75, 1.0)
    # Zhu & Gupta's cube: s_f + (s_i - s_f)(1 - t)³ with s_i = 0.
    assert shares(4, "polynomial") == pytest.approx((1 - 0.75**3, 1 - 0.5**3, 1 - 0.25**3, 1.0))
    assert shares(1, "polynomial") == (1.0,)


@pytest.mark.parametrize("name", PASSES)
def test_training_in_between_keeps_what_pruning_at_once_loses(name, tmp_path):
    module = trained()
    at_once = PASSES[name]().run(module.clone(), context_in(tmp_path)).module
    operation = PASSES[name](steps=3, epochs=2, **GRADUAL)
    result = operation.run(module.clone(), context_in(tmp_path))
    assert verify(result.module) == []
    assert accuracy(result.module) >= accuracy(at_once) + 0.1
    heads = [note.message for note in result.notes if note.message.startswith("step ")]
    assert [head[:11] for head in heads] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert all(note.figures["loss"] for note in result.notes[:3])


def test_zeros_are_as_many_as_asked_for_and_stay_zero(tmp_path):
    module = trained()
    result = Magnitude(Ratio(0.8), steps=3, **GRADUAL).run(module, context_in(tmp_path)).module
    kernels = [weight(result, name) for name in ("conv1", "conv2", "head")]
    assert sum(int((kernel == 0).sum()) for kernel in kernels) == np.ceil(0.8 * sum(kernel.size for kernel in kernels))


def test_the_pattern_is_whole_after_the_last_step(tmp_path):
    result = NM(NofM(2, 4), steps=3, schedule="linear", **GRADUAL).run(trained(), context_in(tmp_path)).module
    neighbours = np.moveaxis(weight(result, "conv2"), 1, -1).reshape(-1, 4)
    assert ((neighbours != 0).sum(axis=1) == 2).all()


@pytest.mark.parametrize("round_to", [1, 4])
def test_channels_end_at_the_sizes_of_one_cut(round_to, tmp_path):
    options = {"round_to": round_to}
    at_once = Channels(Ratio(0.4), **options).run(trained(), context_in(tmp_path)).module
    steps = Channels(Ratio(0.4), steps=3, schedule="linear", **options, **GRADUAL).run(trained(), context_in(tmp_path))
    sizes = [[(group.name, group.channels) for group in groups(one)] for one in (at_once, steps.module)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("of", "scope"), [("macs", "global"), ("parameters", "local")])
def test_shares_of_the_cost_are_those_of_the_whole_model(of, scope, tmp_path):
    module = trained()
    before = cost(module)
    result = Channels(Ratio(0.5), of=of, scope=scope, steps=2, **GRADUAL).run(module, context_in(tmp_path)).module
    after = cost(result)
    saved = 1 - (after.macs / before.macs if of == "macs" else after.parameters / before.parameters)
    assert 0.5 <= saved <= 0.6


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", PASSES)
def test_a_killed_run_goes_on_where_it_was_to_the_same_bits(name, tmp_path, bits):
    def kill(title):
        if title.startswith("step 3 of 3"):
            raise Killed

    operation = PASSES[name](steps=3, schedule="linear", **GRADUAL)
    whole = operation.run(trained(), context_in(tmp_path / "whole"))
    with pytest.raises(Killed):
        operation.run(trained(), context_in(tmp_path / "killed", progress=kill))
    titles = []
    resumed = operation.run(trained(), context_in(tmp_path / "killed", progress=titles.append))
    assert {title[:11] for title in titles} == {"step 3 of 3"}
    assert bits(resumed.module) == bits(whole.module)
    assert [note.message for note in resumed.notes] == [note.message for note in whole.notes]


def test_files_that_are_damaged_are_made_again(tmp_path, bits):
    operation = Magnitude(Ratio(0.5), steps=2, **GRADUAL)
    first = operation.run(trained(), context_in(tmp_path))
    (tmp_path / "checkpoints" / "pruned-1.onnx").write_bytes(b"no model")
    assert bits(operation.run(trained(), context_in(tmp_path)).module) == bits(first.module)


def test_the_best_weights_of_each_step_are_kept(tmp_path):
    operation = Magnitude(
        Ratio(0.9), steps=2, **GRADUAL, validation=DataRef("scans", "held"), monitor=MetricRef("accuracy")
    )
    notes = operation.run(trained(), context_in(tmp_path)).notes
    assert all("whose weights are kept" in note.message for note in notes[:2])


def test_only_an_instance_with_steps_trains():
    assert not Magnitude.trains
    assert not Magnitude(Ratio(0.5)).trains
    assert Magnitude(Ratio(0.5), steps=2, **GRADUAL).trains


def test_the_passes_own_options_come_first():
    assert [one.name for one in schema(NM)][:3] == ["pattern", "only", "skip"]
    assert [one.name for one in schema(Channels)][:2] == ["amount", "of"]
    own = {one.name for one in schema(Magnitude)}
    assert {"steps", "schedule", "data", "loss", "epochs", "rate"} <= own


def test_targets_that_are_missing_are_said(tmp_path):
    train = [{"image": sample["image"]} for sample in SPLITS["train"][:40]]
    with pytest.raises(Exception, match="no `target`"):
        Magnitude(Ratio(0.5), steps=2, **GRADUAL).run(trained(), context_in(tmp_path, train=train))


def test_a_graph_that_cannot_be_trained_is_refused_with_its_node(module_of, tmp_path):
    module = module_of("(float[N,8] x) => (float[N,8] y)", "[odd] h = acme.Odd(x) y = MatMul(h, w)", {"w": np.eye(8)})
    with pytest.raises(PassError, match="Odd"):
        Magnitude(Ratio(0.5), steps=2, **GRADUAL).run(module, context_in(tmp_path))


@pytest.fixture
def codes(tmp_path):
    (tmp_path / "net.onnx").touch()
    (tmp_path / "data.py").write_text("def data(): ...\n", encoding="utf-8")

    def found(step):
        path = tmp_path / "r.mopt"
        head = 'model net = onnx("net.onnx")\ndata scans = python("data.py:data")\n'
        tuned = "tune(data=scans.train, loss=cross_entropy)"
        path.write_text(f"{head}pipeline p = net {{ {step} {tuned} }}\n", encoding="utf-8")
        return {diagnostic.code: str(diagnostic) for diagnostic in check(path, {}).diagnostics}

    return found


@pytest.mark.parametrize(
    "step",
    [
        "prune.magnitude(80%, steps=4, data=scans.train, loss=cross_entropy, epochs=2, rate=1e-3)",
        "prune.nm(2:4, steps=2, schedule=linear, data=scans.train, loss=cross_entropy)",
        "prune.channels(30%, steps=4, data=scans.train, loss=cross_entropy, correct=none, warmup=10%)",
        "prune.channels(30%, criterion=taylor, data=scans.train, loss=cross_entropy, batch=16)",
        "prune.channels(30%, data=scans.train[:64])",
    ],
)
def test_recipes_that_are_right(codes, step):
    assert codes(step) == {}


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("prune.magnitude(80%, steps=4)", "`steps` needs `data` and `loss`"),
        ("prune.magnitude(80%, steps=4, data=scans.train)", "`steps` needs `loss`"),
        ("prune.magnitude(80%, data=scans.train)", "`data` needs `steps`"),
        ("prune.nm(2:4, epochs=3)", "`epochs` needs `steps`"),
        ("prune.channels(30%, schedule=linear)", "`schedule` needs `steps`"),
        ("prune.channels(30%, data=scans.train, loss=cross_entropy)", "`loss` needs `steps`"),
        ("prune.channels(30%, criterion=taylor)", "`criterion=taylor` needs `data` and `loss`"),
        ("prune.channels(30%, criterion=taylor, data=scans.train)", "`criterion=taylor` needs `loss`"),
        (
            "prune.channels(30%, steps=2, data=scans.train, loss=mse, validation=scans.train)",
            "`validation` is the data that is trained on",
        ),
    ],
)
def test_recipes_that_are_wrong(codes, step, said):
    assert said in codes(step)["E0314"]
