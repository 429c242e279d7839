"""The loop: it learns, resumes bit for bit, keeps the best, and tells what is wrong where."""

import os
import signal

import numpy as np
import pytest
import torch
from mopt.runtime.contract import DataError
from mopt.runtime.data.splits import as_split
from mopt.runtime.judge.losses import CrossEntropy, PythonLoss
from mopt.runtime.judge.metrics import Accuracy
from mopt.runtime.training.batches import TrainingData
from mopt.runtime.training.checkpoint import FILE
from mopt.runtime.training.hook import Hook
from mopt.runtime.training.monitor import Monitor
from mopt.runtime.training.objective import LossObjective, Objective
from mopt.runtime.training.settings import TrainingError
from mopt.values import Location, PythonRef


class Stop(Hook):
    """Does something after a step."""

    def __init__(self, step, act):
        self._step, self._act = step, act

    def after_step(self, network, step):
        if step == self._step:
            self._act()


def kill():
    raise SystemExit("killed")


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_it_learns_and_does_so_again(start, same, optimizer):
    rate = 0.1 if optimizer == "sgd" else 1e-2
    first, result = start(epochs=3, optimizer=optimizer, rate=rate, clip=1.0, warmup=0.1, weight_decay=0.01)
    assert len(result.progress.losses) == 30 == result.total == result.kept
    assert np.mean(result.progress.losses[-5:]) < 0.5 * np.mean(result.progress.losses[:3])
    assert same(first, start(epochs=3, optimizer=optimizer, rate=rate, clip=1.0, warmup=0.1, weight_decay=0.01)[0])
    assert not same(first, start(epochs=3, optimizer=optimizer, rate=rate, clip=1.0, warmup=0.1, seed=1)[0])


def test_callers_generators_are_left_alone(start):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    start(Flat(), steps=2)
    assert (torch.rand(1).item(), np.random.rand()) == expected


class Flat(torch.nn.Module):
    """One product; making it draws no random number."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(10, 64))

    def forward(self, feeds):
        return {"y": feeds["image"].flatten(1) @ self.weight.T}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resumed_in_the_middle_of_an_epoch_it_is_the_uninterrupted_run(start, same, tmp_path, optimizer):
    options = {"epochs": 2, "optimizer": optimizer, "checkpoint": 0.0}
    whole, expected = start(**options)
    with pytest.raises(SystemExit):
        start(**options, checkpoints=tmp_path, hooks=[Stop(13, kill)])
    resumed, result = start(**options, checkpoints=tmp_path, hooks=[Stop(-1, kill)])
    assert result.resumed == 13, "the step that was being done is done again"
    assert result.progress.losses == expected.progress.losses
    assert same(whole, resumed)


def test_ctrl_c_finishes_the_step_writes_a_checkpoint_and_is_told(start, same, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        start(epochs=2, checkpoints=tmp_path, hooks=[Stop(7, interrupt)])
    assert signal.getsignal(signal.SIGINT) is before
    resumed, result = start(epochs=2, checkpoints=tmp_path, hooks=[Stop(-1, interrupt)])
    assert result.resumed == 8
    assert same(resumed, start(epochs=2)[0])


def test_a_damaged_checkpoint_is_none(start, same, tmp_path):
    (tmp_path / FILE).write_bytes(b"half a file")
    network, result = start(epochs=1, checkpoints=tmp_path)
    assert result.resumed is None
    assert same(network, start(epochs=1)[0])


def test_a_checkpoint_that_can_not_be_written_does_not_end_training(start, same, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    network, result = start(epochs=1, checkpoints=tmp_path / "file", checkpoint=0.0)
    assert result.problem == "File exists"
    assert same(network, start(epochs=1)[0])


def _monitor(held_out, inputs, criterion=None, goal="max", name="accuracy"):
    class Model:
        pass

    model = Model()
    model.inputs = inputs
    return Monitor(name, criterion or Accuracy(), goal, held_out, model, 50)


def test_best_weights_are_kept_and_training_stops_early(start, same, held_out, inputs):
    monitor = _monitor(held_out, inputs)
    network, result = start(epochs=12, monitor=monitor, patience=2, rate=0.02, schedule="constant")
    figures = dict(result.progress.figures)
    assert result.progress.best[1] == max(figures.values()) == figures[result.kept]
    assert monitor.measure(network, torch.device("cpu")) == figures[result.kept]
    assert result.progress.stopped == "patience"
    assert result.progress.step < 120
    after = [figure for step, figure in result.progress.figures if step > result.kept]
    assert len(after) == 2
    assert max(after) <= figures[result.kept]


def test_a_loss_may_be_the_monitor_and_untrained_weights_the_best(start, same, held_out, inputs):
    monitor = _monitor(held_out, inputs, CrossEntropy(), "min", "loss")
    trained, _ = start(epochs=4)
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    network, result = start(trained, epochs=1, rate=10.0, optimizer="sgd", monitor=monitor, every=5)
    assert [step for step, _ in result.progress.figures] == [0, 5, 10]
    assert result.kept == 0
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)


def test_resume_knows_the_best_weights(start, same, held_out, inputs, tmp_path):
    options = {"epochs": 4, "rate": 0.02, "schedule": "constant", "every": 4, "checkpoint": 0.0}
    whole, expected = start(**options, monitor=_monitor(held_out, inputs))
    with pytest.raises(SystemExit):
        start(**options, monitor=_monitor(held_out, inputs), checkpoints=tmp_path, hooks=[Stop(38, kill)])
    resumed, result = start(**options, monitor=_monitor(held_out, inputs), checkpoints=tmp_path, hooks=[Stop(-1, kill)])
    assert result.resumed == 38
    assert result.progress.figures == expected.progress.figures
    assert same(whole, resumed)


class Poisoned(LossObjective):
    """NaN at some steps."""

    def __init__(self, *steps):
        super().__init__(CrossEntropy())
        self._steps = steps

    def forward(self, outputs, batch):
        loss = super().forward(outputs, batch)
        return loss * float("nan") if batch.step in self._steps else loss


def test_nan_stops_and_says_where(start):
    with pytest.raises(TrainingError, match=r"the loss is nan at step 26 of 50 \(samples .* of `scans") as info:
        start(epochs=5, objective=Poisoned(25))
    assert "good for the last time after step 20" in str(info.value)
    assert "nan=keep" in info.value.help


def test_nan_can_keep_the_last_good_weights(start, same):
    network, result = start(Flat(), epochs=5, nan="keep", objective=Poisoned(25))
    assert (result.kept, result.progress.stopped) == (20, "nan")
    twenty = Flat()
    with pytest.raises(SystemExit):
        start(twenty, epochs=5, hooks=[Stop(19, kill)])
    assert same(network, twenty)
    network, result = start(Flat(), nan="keep", objective=Poisoned(0))
    assert result.kept == 0
    assert same(network, Flat())


def test_nan_can_leave_the_batch_out(start):
    network, result = start(epochs=5, nan="skip", objective=Poisoned(3, 25))
    assert (result.progress.skipped, result.kept) == ([3, 25], 50)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    with pytest.raises(TrainingError, match="as it was in the 9 steps before"):
        start(epochs=5, nan="skip", objective=Poisoned(*range(5, 50)))


def test_weights_that_overflow_are_found_even_in_the_last_step(start):
    class Endless(Objective):
        def forward(self, outputs, batch):
            weight = outputs["y"].sum()
            return torch.sqrt((weight * 0).abs())  # a finite loss whose gradient is not

    with pytest.raises(TrainingError, match="the weights are not finite at step 1 of 1"):
        start(steps=1, objective=Endless())


def test_nothing_to_train(start, net):
    net.requires_grad_(False)
    with pytest.raises(TrainingError, match="there is nothing to train"):
        start(net)


def test_out_of_memory(start, net):
    class Greedy(LossObjective):
        def forward(self, outputs, batch):
            if batch.step == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().forward(outputs, batch)

    with pytest.raises(TrainingError, match="out of memory at step 3 with a batch of 32 on cpu: CUDA out") as info:
        start(net, objective=Greedy(CrossEntropy()))
    assert "batch=16" in info.value.help


def test_memory_may_run_out_in_the_network(start, net, monkeypatch):
    def forward(feeds):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(net, "forward", forward)
    with pytest.raises(TrainingError, match="out of memory at step 1"):
        start(net)


def test_a_network_that_refuses_the_batch(start, net, monkeypatch):
    def forward(feeds):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(net, "forward", forward)
    with pytest.raises(TrainingError, match=r"the graph does not run on `image` \[32, 1, 8, 8\]: mat1 .*\(step 1,"):
        start(net)


def _python(tmp_path, body):
    (tmp_path / "loss.py").write_text(f"import torch\ndef loss(outputs, targets):\n    {body}\n", encoding="utf-8")
    return LossObjective(PythonLoss(PythonRef(Location("loss.py", str(tmp_path)), "loss")), "mine")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return outputs['y'].mean(1)", r"returned a tensor of shape \[32\]; a loss is one number"),
        ("return 3", "returned 3; a loss is one number"),
        ("return outputs['y'].argmax(1).float().mean()", "does not depend on the network's outputs"),
        ("raise KeyError('y0')", r"failed with KeyError: 'y0'\n  at loss.py:3"),
        ("return outputs['logits'].mean()", "failed with KeyError: 'logits'"),
    ],
)
def test_a_loss_of_the_recipe_that_is_wrong(start, tmp_path, body, message):
    with pytest.raises(DataError, match=message) as info:
        start(objective=_python(tmp_path, body))
    assert "step 1, samples" in str(info.value)


def test_labels_out_of_range_and_missing_targets(start, split, inputs):
    samples = [dict(sample) for sample in split][:64]
    samples[40]["target"] = 10
    with pytest.raises(DataError, match=r"the target 10 is no class; the output has 10, 0 to 9 \(step \d, samples"):
        start(data=TrainingData(as_split(samples, "s"), inputs, 32, seed=0))
    for sample in samples:
        del sample["target"]
    with pytest.raises(DataError, match="the samples have no `target`"):
        start(data=TrainingData(as_split(samples, "s"), inputs, 32, seed=0))


def test_half_precision_learns_with_weights_in_float32(start):
    network, result = start(epochs=2, rate=1e-2, clip=1.0, precision="bf16")
    assert np.mean(result.progress.losses[-3:]) < 0.7 * np.mean(result.progress.losses[:3])
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert result.progress.losses != start(epochs=2, rate=1e-2, clip=1.0)[1].progress.losses


def test_a_device_that_lacks_the_precision(start):
    with pytest.raises(TrainingError, match="`precision=f16` needs a GPU") as info:
        start(precision="f16")
    assert "bf16" in info.value.help
    assert start(steps=1)[1].kept == 1, "another precision after it"


def test_an_objective_has_parameters_of_its_own(start, tmp_path, same):
    class Projected(Objective):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.projection = torch.nn.Linear(10, 10)

        def forward(self, outputs, batch):
            return torch.nn.functional.cross_entropy(self.projection(outputs["y"]), batch.targets)

    objective = Projected()
    before = objective.projection.weight.detach().clone()
    start(steps=20, objective=objective)
    assert not torch.equal(objective.projection.weight, before)
    with pytest.raises(SystemExit):
        start(steps=20, objective=Projected(), checkpoint=0.0, checkpoints=tmp_path, hooks=[Stop(9, kill)])
    resumed = Projected()
    start(steps=20, objective=resumed, checkpoint=0.0, checkpoints=tmp_path, hooks=[Stop(-1, kill)])
    assert same(resumed, objective)


def test_a_hook_decides_which_weights_may_be_kept(start, held_out, inputs):
    class Late(Hook):
        def may_keep(self, step):
            return step >= 8

    upside_down = _monitor(held_out, inputs, goal="min")
    assert start(steps=10, every=2, monitor=upside_down, rate=1e-2)[1].kept < 8
    assert start(steps=10, every=2, monitor=upside_down, rate=1e-2, hooks=[Late()])[1].kept >= 8


def test_the_bar_shows_loss_and_figure(start, held_out, inputs, monkeypatch):
    told = []

    class Bar:
        done = 0

        def advance(self, steps=1):
            self.done += steps

        def describe(self, text):
            told.append(text)

    bar = Bar()
    start(epochs=2, display=bar, monitor=_monitor(held_out, inputs))
    assert bar.done == 20
    assert told[0].startswith("epoch 1/2, loss 2.")
    assert ", accuracy 0." in told[0]


def test_the_curve_is_json(start):
    import json

    _, result = start(epochs=50, steps=450, rate=1e-3)
    curve = json.loads(json.dumps(result.curve(), allow_nan=False))
    assert (len(curve["loss"]), curve["loss"][-1][0], curve["steps_per_epoch"]) == (150, 450, 10)
    assert curve["loss"][0][1] > curve["loss"][-1][1]


def test_settings_that_ask_for_a_gpu_where_there_is_none(start, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="PyTorch sees no GPU here"):
        start(device="cuda")
