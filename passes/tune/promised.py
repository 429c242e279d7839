"""Which weights earlier steps made promises about: those whose zeros or clusters training has to hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from mopt.analysis.codebook import codebooks
from mopt.analysis.parameters import count_parameters
from mopt.passes.contract import Clusters, Promise, Sparsity

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.ir.weights import Weight
    from mopt.runtime.trainable.runner import TrainableModule


def sparse_weights(module: Module, promises: tuple[Promise, ...]) -> tuple[str, ...]:
    """Return the names of weights whose zeros were promised; for one stored as a codebook, the codebook's."""
    wanted = {name: (size, share) for promise in promises if isinstance(promise, Sparsity)
              for name, size, share in promise.weights}  # fmt: skip
    return _found(module, wanted, lambda weight, share: _zero_share(weight) + 1e-9 >= share)


def clustered_weights(module: Module, promises: tuple[Promise, ...]) -> tuple[str, ...]:
    """Return the names of dense weights whose number of values was promised."""
    wanted = {name: (size, count) for promise in promises if isinstance(promise, Clusters)
              for name, size, count in promise.weights}  # fmt: skip
    return _found(module, wanted, lambda weight, count: _distinct(weight) <= count)


def hold_zeros(network: TrainableModule, names: Iterable[str]) -> None:
    """Hold the zeros of weights while a network trains; what is no parameter of it can't change anyway."""
    for name in names:
        if name in network.names:
            zeros = network.parameter_of(name).detach() == 0
            if bool(zeros.any()):
                network.masks.set(network.names[name], zeros)


def _found(
    module: Module, wanted: Mapping[str, tuple[int, float]], holds: Callable[[Weight, float], bool]
) -> tuple[str, ...]:
    """Find promised weights as the executor's contracts do: by name, else by size and by keeping the promise."""
    weights = {weight.name: weight for weight in module.weights()}
    books = {book.name: book for book in codebooks(module)}
    found: dict[str, None] = {}
    for name, (size, figure) in wanted.items():
        if name in books:
            found[books[name].table.name or ""] = None
        elif name in weights and weights[name].size == size:
            found[name] = None
        else:
            for other in weights.values():
                if other.name not in wanted and _elements(other) == size and holds(other, figure):
                    found[other.name] = None
    return tuple(found)


def _elements(weight: Weight) -> int:
    return count_parameters(weight)[0] or weight.size


def _zero_share(weight: Weight) -> float:
    count, nonzero = count_parameters(weight)
    if not count:
        count, nonzero = weight.size, int(np.count_nonzero(weight.numpy()))
    return 1.0 - nonzero / count if count else 1.0


def _distinct(weight: Weight) -> int:
    array = weight.numpy()
    return int(np.unique(array.astype(np.float64 if array.dtype.kind == "f" else np.int64)).size)
