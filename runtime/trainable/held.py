"""What earlier passes gave stays while training: zeros stay zero, elements that share a value go on sharing it.

Zeros are held by their gradients: an element that is zero and has a gradient of zero stays zero under every optimiser
that scales gradients, momenta and weights, and no step pays for a masked copy of the weight. Clusters are held by
training the codebook itself, whose gradient is the sum over the elements of each cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import torch
from mopt.analysis.codebook import codebooks
from mopt.ir import Module, Weight
from mopt.runtime.trainable.operator import Compute
from mopt.runtime.trainable.tensors import TORCH_DTYPES, of_tensor
from mopt.runtime.trainable.weights import Clusters, Leaf, Store, Tensors, readers_of
from torch import nn

_HELD_SHARE: Final = 0.01


class _LookUp(torch.autograd.Function):
    """values [K], places [n] → [n]. PyTorch's own gradient of indexing sorts the indices; counting does not."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.count = values.shape[0]
        return values.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (places,) = ctx.saved_tensors
        return torch.bincount(places, weights=gradient, minlength=ctx.count).to(gradient.dtype), None


def take_codebooks(module: Module, store: Store, dense: Sequence[str]) -> dict[str, ir.Value]:
    """Make parameters of the codebooks of a module, and of the values of dense weights.

    Args:
        dense: names of weights whose equal elements stay equal.

    Returns:
        The weights that need no leaf any more.

    Raises:
        KeyError: no weight has one of the names.
    """
    taken: dict[str, ir.Value] = {}
    weights = {weight.value: weight for weight in module.weights()}
    for book in codebooks(module):
        table, indices = weights[book.table], weights[book.indices]
        inner = [output for node in book.nodes[:-1] for output in node.outputs]
        if len(table.users) != 1 or len(indices.users) != 1 or any(len(value.uses()) != 1 for value in inner):
            continue
        places = _values(store, table, book.name, book.value)
        elements = places.reshape(table.shape)[indices.numpy().astype(np.int64)]
        _look_up(store, table, book.value, elements.reshape(book.shape))
        store.names[book.name] = store.names[table.name]
        store.books.add(book.name)
        store.skipped.update(book.nodes)
        taken.update({table.name: table.value, indices.name: indices.value})
    named = {weight.name: weight for weight in weights.values()}
    for name in dense:
        if name not in named:
            raise KeyError(f"no weight is called `{name}`")
        weight = named[name]
        places = _values(store, weight, name, weight.value)
        _look_up(store, weight, weight.value, places.reshape(weight.shape))
        taken[name] = weight.value
    return taken


def _values(store: Store, stored: Weight, name: str, value: ir.Value) -> Any:
    """Make a parameter of the different values of a stored tensor."""
    content = of_tensor(stored.tensor)
    assert isinstance(content, torch.Tensor)
    wide = content if content.dtype == torch.float64 else content.float()
    values, places = np.unique(wide.numpy(), return_inverse=True)
    safe = store.parameter(stored.name, torch.from_numpy(values), (*readers_of(value), name))
    store.clusters[stored.name] = Clusters(safe, places.reshape(-1).astype(np.int32))
    return places.reshape(-1).astype(np.int32)


def _look_up(store: Store, stored: Weight, value: ir.Value, places: Any) -> None:
    safe = store.names[stored.name]
    index = store.tensors.put(
        f"{stored.name}_places", torch.from_numpy(np.ascontiguousarray(places.reshape(-1))), persistent=False
    )
    leaf = Leaf(
        (("weight", safe), ("weight", index)),
        _reader(tuple(places.shape), TORCH_DTYPES[stored.tensor.dtype]),
        f"weight `{value.name}`",
    )
    store.leaves[value] = leaf


def _reader(shape: tuple[int, ...], dtype: torch.dtype) -> Compute:
    def compute(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _LookUp.apply(values, places)
        return found.reshape(shape).to(dtype)

    return compute


class Masks(nn.Module):
    """Which elements of the parameters stay zero: a buffer of bools for each, True where it does.

    Masks are part of the runner's state, so that a checkpoint has them.
    """

    def __init__(self, weights: Tensors, hold: bool | Sequence[str], store: Store) -> None:
        super().__init__()
        self._weights = [weights]  # in a list, so that torch does not count its parameters twice
        books = {clusters.parameter for clusters in store.clusters.values()}
        names = {} if isinstance(hold, bool) else {store.names[name]: name for name in hold}
        for safe, parameter in weights.named_parameters():
            zeros = parameter.detach() == 0
            if safe in books:
                wanted = hold is not False and bool(zeros.any())
            elif isinstance(hold, bool):
                share = float(zeros.float().mean())
                wanted = hold and parameter.dim() > 1 and _HELD_SHARE <= share < 1
            else:
                wanted = safe in names and bool(zeros.any())
            if wanted:
                self.set(safe, zeros)

    def set(self, name: str, zeros: torch.Tensor) -> None:
        """Hold elements of a parameter at zero from now on (gradual pruning: more of them each time).

        Args:
            name: of the parameter.
            zeros: bools of its shape, True where the element is to be zero.
        """
        parameter = self._parameter(name)
        zeros = zeros.to(parameter.device)
        with torch.no_grad():
            parameter.masked_fill_(zeros, 0)
        if name in self._buffers:
            self._buffers[name] = zeros
            return
        self.register_buffer(name, zeros)
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda tensor: self._clear(name, tensor))

    def of(self, name: str) -> torch.Tensor | None:
        """Return the mask of a parameter, or None."""
        return self._buffers.get(name)

    def apply(self) -> None:
        """Set what is held to zero, for optimisers that move elements whose gradient is zero."""
        with torch.no_grad():
            for name, zeros in self._buffers.items():
                if zeros is not None:
                    self._parameter(name).masked_fill_(zeros, 0)

    def _parameter(self, name: str) -> nn.Parameter:
        found: nn.Parameter = getattr(self._weights[0], name)
        return found

    def _clear(self, name: str, parameter: torch.Tensor) -> None:
        zeros = self._buffers[name]
        if parameter.grad is not None and zeros is not None:
            # Filled, not multiplied: a gradient that overflowed in half precision times zero would be NaN.
            parameter.grad.masked_fill_(zeros, 0)
