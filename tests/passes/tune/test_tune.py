"""`tune` on a module: it learns, what was promised holds, and what is wrong is told."""

from __future__ import annotations

import json

import numpy as np
import onnx.parser
import pytest
from mopt.build.contracts import ContractError, check_promises
from mopt.build.grids import check_grids
from mopt.ir import from_proto, verify
from mopt.passes.cluster.kmeans import KMeans
from mopt.passes.contract import PassError
from mopt.passes.prune.magnitude import Magnitude
from mopt.passes.prune.nm import NM
from mopt.passes.quantize.static import Static
from mopt.passes.tune.tune import Tune
from mopt.runtime.contract import DataError
from mopt.values import DataRef, LossRef, MetricRef, NofM, Ratio

TRAIN, HELD = DataRef("scans", "train"), DataRef("scans", "held")


def tuned(module, context, **options):
    operation = Tune(**{"data": TRAIN, "loss": LossRef("cross_entropy"), "rate": 3e-3, "device": "cpu", **options})
    return operation.run(module, context)


def pruned(module, operation, context):
    before = module.clone()
    after = operation.run(module, context).module
    return after, operation.promises(before, after)


def falls(result):
    """Tell whether the loss of the last epoch is at most nine tenths of the first one's."""
    figures = result.notes[0].figures
    losses, epoch = [loss for _, loss in figures["loss"]], figures["steps_per_epoch"]
    return np.mean(losses[-epoch:]) < 0.9 * np.mean(losses[:epoch])


def test_it_learns_and_the_weights_flow_back(module, context, accuracy):
    before = accuracy(module)
    result = tuned(module, context(), epochs=3)
    assert result.modified
    assert not verify(result.module)
    assert before < 0.3 < 0.85 < accuracy(result.module)
    figures = json.loads(json.dumps(result.notes[0].figures, allow_nan=False))
    assert figures["steps"] == 60
    assert figures["loss"][0][1] > 2 * figures["loss"][-1][1]
    assert result.notes[0].message.startswith("60 steps of 20 an epoch, loss ")


def test_the_same_seed_gives_the_same_bytes(context, module, array_of):
    one, other = module.clone(), module.clone()
    for copy in (one, other):
        tuned(copy, context(), steps=8)
    assert array_of(one, "head").tobytes() == array_of(other, "head").tobytes()
    third = tuned(module.clone(), context(seed=1), steps=8).module
    assert array_of(one, "head").tobytes() != array_of(third, "head").tobytes()
    fourth = tuned(module.clone(), context(), steps=8, seed=1).module
    assert array_of(third, "head").tobytes() == array_of(fourth, "head").tobytes()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_pruned_weights_stay_zero(module, context, accuracy, array_of, optimizer):
    module, promises = pruned(module, Magnitude(Ratio(0.8)), context())
    masks = {name: array_of(module, name) == 0 for name in ("conv1", "conv2", "head")}
    assert accuracy(module) < 0.5
    rate = 0.05 if optimizer == "sgd" else 1e-2
    result = tuned(module, context(promises), epochs=4, optimizer=optimizer, rate=rate, weight_decay=0.01)
    assert accuracy(result.module) > 0.75
    for name, mask in masks.items():
        after = array_of(result.module, name)
        np.testing.assert_array_equal(after == 0, mask)
    check_promises(result.module, promises)
    assert array_of(result.module, "bias2").any(), "zeros that nobody promised do train"


def test_without_a_promise_nothing_holds_the_zeros(module, context, array_of):
    module, promises = pruned(module, Magnitude(Ratio(0.8)), context())
    result = tuned(module, context(), steps=4)
    with pytest.raises(ContractError, match="was promised"):
        check_promises(result.module, promises)
    assert np.mean(array_of(result.module, "conv2") == 0) < 0.1


def test_a_pattern_of_two_in_four_stays(module, context, array_of):
    module, promises = pruned(module, NM(NofM(2, 4)), context())
    before = array_of(module, "head") == 0
    result = tuned(module, context(promises), steps=20)
    after = array_of(result.module, "head").reshape(10, 64, 4)
    assert np.count_nonzero(after, axis=2).max() == 2
    np.testing.assert_array_equal(after.reshape(10, 256) == 0, before)
    check_promises(result.module, promises)


def test_clusters_stay_and_their_centres_move(module, context):
    tuned(module, context(), epochs=2)
    module, promises = pruned(module, KMeans(8, min_elements=64), context())
    assert promises
    indices = {w.name: w.numpy().copy() for w in module.weights() if w.tensor.dtype.name.startswith("UINT")}
    assert indices
    result = tuned(module, context(promises), epochs=3, rate=1e-2)
    check_promises(result.module, promises)
    for weight in result.module.weights():
        if weight.name in indices:
            np.testing.assert_array_equal(weight.numpy(), indices[weight.name])
    assert falls(result)


def test_pruned_and_clustered_weights_keep_both(module, context):
    module, zeros = pruned(module, Magnitude(Ratio(0.6)), context())
    module, clusters = pruned(module, KMeans(8, min_elements=64), context())
    result = tuned(module, context((*zeros, *clusters)), steps=20)
    check_promises(result.module, (*zeros, *clusters))


def test_quantised_weights_stay_on_their_grid(module, context):
    from mopt.passes.simplify.rules import Rules

    tuned(module, context(), epochs=2)
    module = Rules().run(module, context()).module
    module = Static(TRAIN, batch=32).run(module, context()).module
    before, integers = module.clone(), _integers(module)
    assert integers
    result = tuned(module, context(), epochs=2, rate=1e-3)
    check_grids(before, result.module)
    after = _integers(result.module)
    assert {name: array.dtype for name, array in after.items()} == {n: a.dtype for n, a in integers.items()}
    assert any(not np.array_equal(after[name], integers[name]) for name in after), "they moved, by whole steps"
    assert falls(result)
    scale = next(
        w for w in result.module.weights() if w.users[0][0].op_type == "DequantizeLinear" and w.users[0][1] == 1
    )
    scale.replace(scale.numpy() * 2)
    with pytest.raises(ContractError, match="the quantisation grid of node"):
        check_grids(before, result.module)


def _integers(module):
    return {w.name: w.numpy().copy() for w in module.weights() if w.is_parameter and w.tensor.dtype.name == "INT8"}


def test_layers_are_chosen(module, context, array_of):
    before = {name: array_of(module, name) for name in ("conv1", "conv2", "head", "mean")}
    tuned(module, context(), steps=3, only=("n7", "conv2"), batchnorm="freeze")
    changed = {name for name, array in before.items() if not np.array_equal(array, array_of(module, name))}
    assert changed == {"conv2", "head"}


@pytest.mark.parametrize(("batchnorm", "moves"), [("train", True), ("freeze", False)])
def test_running_statistics(module, context, array_of, batchnorm, moves):
    tuned(module, context(), steps=3, batchnorm=batchnorm)
    assert array_of(module, "mean").any() == moves


def test_the_best_weights_by_the_metric_are_kept(module, context):
    result = tuned(module, context(), epochs=4, rate=0.05, validation=HELD, monitor=MetricRef("accuracy"), every=5)
    figures = result.notes[0].figures
    best = max(figure for _, figure in figures["monitor"])
    assert dict(figures["monitor"])[figures["kept_step"]] == best
    assert f"{best:.4g} at best, after step {figures['kept_step']}" in result.notes[0].message


def test_weights_that_training_makes_worse_are_left_as_they_were(module, context, array_of):
    tuned(module, context(), epochs=2)
    before = array_of(module, "head")
    result = tuned(
        module, context(), epochs=1, rate=5.0, optimizer="sgd", clip=1.0, validation=HELD, patience=1, every=5
    )
    assert not result.modified
    assert [note.severity for note in result.notes][:2] == ["info", "warning"]
    assert "training never improved cross_entropy" in result.notes[1].message
    np.testing.assert_array_equal(array_of(result.module, "head"), before)


def test_nothing_to_train(module, context):
    with pytest.raises(PassError, match="nothing is left to train"):
        tuned(module, context(), skip=("*",))
    empty = from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> '
            "g (float[N, 1, 8, 8] image) => (float[N, 1, 8, 8] y) { y = Relu(image) }"
        )
    )
    with pytest.raises(PassError, match="nothing to train"):
        tuned(empty, context())


def test_an_operator_that_can_not_be_trained_is_named_before_training(context):
    module = from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> '
            "g (float[N, 1, 8, 8] image) => (float[N, 10] y) { [odd] y = acme.Special(image) }"
        )
    )
    with pytest.raises(PassError, match=r"node `odd` \(acme::Special\)") as info:
        tuned(module, context())
    assert info.value.node == "odd"


def test_a_loss_that_is_no_number(module, context, array_of):
    before = array_of(module, "head")
    with pytest.raises(PassError, match=r"the loss is nan at step \d+ of 40"):
        tuned(module, context(), steps=40, rate=1e30, optimizer="sgd")
    result = tuned(module, context(), steps=40, rate=1e30, optimizer="sgd", nan="keep")
    told = next(note.message for note in result.notes if note.severity == "warning")
    assert told.startswith("the loss was no finite number at step ")
    assert told.endswith("the weights are those after step 0")
    np.testing.assert_array_equal(array_of(result.module, "head"), before)


def test_wrong_data_is_told_with_the_step(module, context):
    samples = [dict(sample) for sample in context().split(TRAIN)][:64]
    samples[7]["target"] = 10
    with pytest.raises(DataError, match=r"the target 10 is no class; .* \(step \d, samples .* of `scans.train`\)"):
        tuned(module, context(train=samples))
    with pytest.raises(DataError, match=r"`scans.train` has 64 samples, fewer than one batch of 100"):
        tuned(module, context(train=samples), batch=100, last="drop")
    result = tuned(module, context(train=samples[8:40]), batch=100)
    assert "every step saw all of them" in result.notes[-1].message


def test_memory_that_runs_out(module, context, monkeypatch):
    import torch
    from mopt.runtime.judge.losses import CrossEntropy

    def greedy(self, outputs, targets):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(CrossEntropy, "__call__", greedy)
    with pytest.raises(PassError, match="out of memory at step 1 with a batch of 32") as info:
        tuned(module, context())
    assert "batch=16" in info.value.help


def test_a_missing_package_is_named(module, context, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "accelerate" else find(name, *rest)
    )
    with pytest.raises(PassError, match="training needs `accelerate`") as info:
        tuned(module, context())
    assert info.value.help == "pip install 'mopt[torch]'"


def test_options_that_do_not_go_together():
    with pytest.raises(ValueError, match="`monitor` needs `validation`"):
        Tune(TRAIN, LossRef("ctc"), monitor=MetricRef("cer"))
    with pytest.raises(ValueError, match="`validation` is the data that is trained on"):
        Tune(TRAIN, LossRef("ctc"), validation=TRAIN)
