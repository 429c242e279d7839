"""Importance by gradients: how much the loss would change, to first order, if a channel went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from mopt.analysis.coupling import Group
from mopt.ir import Module
from mopt.passes.contract import Context, PassError
from mopt.passes.prune.channels_importance import Scores
from mopt.runtime.trainable.runner import TrainableModule
from mopt.runtime.training.batches import TrainingData
from mopt.runtime.training.objective import Batch, LossObjective, targets_on

if TYPE_CHECKING:
    from mopt.passes.prune.channels import Channels

_LEARNED: Final = frozenset({"out", "in", "gates", "embedding", "gamma", "bias"})
_SAMPLES: Final = 2048
"""Samples that gradients are taken of, at most: spread evenly over the data."""


def taylor(module: Module, groups: Sequence[Group], options: Channels, context: Context) -> list[Scores | None]:
    """Return a score for each channel of each group; None where nothing that is learned passes through.

    The mean over batches of (Σ g·w)², g being the loss's gradient and the sum over all weights of the group that go
    with the channel (Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, arXiv:1906.10771, eq. 8,
    with the joint sum of a group in place of one weight). Batch normalisations keep their statistics, nothing drops
    out, and everything is computed on the CPU in float32: two runs, identical bits.

    Raises:
        PassError: a gradient is no finite number.
        NotTrainableError: the module has operators without gradients.
        DataError: data, model and loss do not fit.
    """
    assert options.data is not None and options.loss is not None
    network = TrainableModule(module, batch_norm="frozen", hold_zeros=False, dropout=False)
    network.eval()
    objective = LossObjective(context.loss(options.loss), options.loss.name)
    whole = context.split(options.data)
    data = TrainingData(whole, module.inputs, options.batch, shuffle=False)
    weights = {weight.value: weight.name for weight in module.weights()}
    wanted = sorted(
        {weights[m.value] for group in groups for m in group.members if weights.get(m.value)} & set(network.names)
    )
    parameters = {name: network.parameter_of(name) for name in wanted}
    parameters = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
    parts = [_parts(group, weights, parameters) for group in groups]
    scores = [np.zeros(group.channels) for group in groups]
    count = max(1, min(len(data), _SAMPLES // options.batch))
    with context.progress("taylor", count) as progress:
        for number in range(count):
            products = _products(network, objective, data, number * len(data) // count, parameters, options)
            for group, found, total in zip(groups, parts, scores, strict=True):
                sums = np.zeros(group.channels)
                for name, member in found:
                    by_index = products[name].sum(axis=tuple(a for a in range(products[name].ndim) if a != member.axis))
                    sums += np.bincount(member.atoms, weights=by_index[member.indices], minlength=group.channels)
                total += sums**2
            progress.advance()
    return [total / count if found else None for found, total in zip(parts, scores, strict=True)]


def _parts(group: Group, weights: Mapping[Any, str], parameters: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (weights[member.value], member)
        for member in group.members
        if _LEARNED & set(member.roles) and weights.get(member.value) in parameters
    ]


def _products(
    network: TrainableModule,
    objective: LossObjective,
    data: TrainingData,
    step: int,
    parameters: Mapping[str, torch.Tensor],
    options: Channels,
) -> dict[str, Any]:
    """Return gradient times weight of every parameter, for the loss of one batch."""
    feeds, targets, samples = data.batch(step)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in feeds.items()}
    wanted = targets_on(targets, torch.device("cpu")) if targets is not None else None
    outputs = {
        name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in network(tensors).items()
    }
    loss = objective(outputs, Batch(tensors, wanted, samples, step))
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    found = {}
    for (name, weight), gradient in zip(parameters.items(), gradients, strict=True):
        product = torch.zeros_like(weight) if gradient is None else (gradient * weight).detach()
        if not bool(torch.isfinite(product).all()):
            raise PassError(
                f"the gradient of weight `{name}` is NaN or infinite for samples {samples[:4].tolist()} …",
                help=f"look at these samples, the weights and the loss `{options.loss}`",
            )
        found[name] = product.numpy().astype(np.float64)
    return found
