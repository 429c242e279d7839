"""One network with one set of weights, from Keras and from PyTorch, trains alike on the same batches."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mopt.check import check
from mopt.ir import Module
from mopt.passes.convert.options import Convert

RECIPES = Path(__file__).parents[2] / "recipes"
STEPS = 50


def lowered(name: str) -> Module:
    """Lower a model of the recipe; batch normalisations fold into convolutions, as Keras's exporter does it."""
    recipe = check(RECIPES / "crnn.mopt", {}).recipe
    assert recipe is not None
    with tempfile.TemporaryDirectory() as scratch:
        module = recipe.models[name].source.load(Path(scratch), 0).module
        context: Any = None  # folding asks nothing of the compiler
        return Convert(batchnorm="fold").run(module, context).module


def losses(module: Module) -> np.ndarray:
    from mopt.recipes.crnn.data import numbers
    from mopt.runtime.data.splits import as_split
    from mopt.runtime.judge.losses import Ctc
    from mopt.runtime.trainable.runner import TrainableModule
    from mopt.runtime.training.batches import TrainingData
    from mopt.runtime.training.loop import train
    from mopt.runtime.training.objective import LossObjective
    from mopt.runtime.training.settings import Settings

    split = as_split(numbers(train=STEPS * 16, test=1)["train"], "numbers.train")
    # Not Adam: its first steps go by the signs of gradients, however small, and rounding decides some of them.
    settings = Settings(steps=STEPS, batch=16, optimizer="sgd", rate=3e-3, clip=5.0, device="cpu")
    data = TrainingData(split, module.inputs, settings.batch, seed=settings.seed)
    objective = LossObjective(Ctc(charset=("0123456789",)))
    return np.array(train(TrainableModule(module), objective, data, settings).progress.losses)


@pytest.mark.slow
def test_losses_are_the_same_over_fifty_steps() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    pytest.importorskip("keras", reason="needs the extra `tensorflow`")
    torch.set_num_threads(1)
    one, other = lowered("pytorch"), lowered("keras")
    assert {node.op_type for node in one.nodes()} != {node.op_type for node in other.nodes()}
    first, second = losses(one), losses(other)
    assert np.ptp(first) > 0.005
    np.testing.assert_allclose(second, first, rtol=1e-3)
