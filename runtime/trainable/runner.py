"""`TrainableModule`: the graph IR interpreted as a `torch.nn.Module`."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mopt.ir import Module, TensorInfo, Weight
from mopt.runtime.trainable import held, quantizers
from mopt.runtime.trainable.compiling import Scope, Source, Surroundings
from mopt.runtime.trainable.fusing import fusions
from mopt.runtime.trainable.missing import NotTrainableError
from mopt.runtime.trainable.operators import load_all
from mopt.runtime.trainable.program import Mode
from mopt.runtime.trainable.tensors import Content, to_numpy, to_torch
from mopt.runtime.trainable.weights import Store, Tensors, collect
from torch import nn


class TrainableModule(nn.Module):
    """A module of the graph IR that trains.

    Weights are parameters (`runner.weights`, under their names in the graph with `_` for what is no letter or digit;
    `parameter_of` finds one by its graph name), wherever the graph keeps them. Integers and shapes are computed
    exactly and off the gradient's path; what is known when the runner is built is computed then. QuantizeLinear and
    DequantizeLinear become fake quantisers (`runner.quantizers`, see `mopt.runtime.trainable.quantizers`).

    The module is not kept: what was trained is put back by `write_back(runner, module)`.

    Args:
        module: what to train; it is read, never changed.
        batch_norm: `"train"`: in training, batch normalisations use the batch's statistics and follow them by their
            own momentum; `"frozen"`: they always use the running statistics.
        freeze: globs over source layers and weight names; what they match does not train.
        only: globs; what they do not match does not train. Empty means all.
        hold_zeros: weights whose zeros stay zero: names; True for every weight of two dimensions or more of which at
            least one element in a hundred is zero (but not all are); False for none.
        hold_clusters: names of dense weights whose equal elements stay equal. Codebooks always do.
        dropout: whether `Dropout` nodes drop in training. Most exporters leave none.
        trainable: False makes a runner without gradients (a teacher): nothing trains, and that is no error.

    Raises:
        NotTrainableError: operators are missing (all are told), or nothing is left to train.
    """

    def __init__(
        self,
        module: Module,
        *,
        batch_norm: Literal["train", "frozen"] = "train",
        freeze: Sequence[str] = (),
        only: Sequence[str] = (),
        hold_zeros: bool | Sequence[str] = True,
        hold_clusters: Sequence[str] = (),
        dropout: bool = True,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        load_all()
        self.inputs: tuple[TensorInfo, ...] = module.inputs
        self.outputs: tuple[TensorInfo, ...] = module.outputs
        self.mode = Mode(train_batch_norm=batch_norm == "train", dropout=dropout)
        store = Store()
        taken = held.take_codebooks(module, store, hold_clusters)
        grids = quantizers.plan(module, store, taken)
        collect(module, taken, store)
        self.weights: Tensors = store.tensors
        self.quantizers = nn.ModuleDict(grids.modules)
        self.constants = Tensors()
        self.names: dict[str, str] = store.names
        self.readers: dict[str, tuple[str, ...]] = store.readers
        self._placed: list[tuple[int, str, str]] = []
        self._on_host: list[tuple[int, Content]] = []
        self._compile(module, store, grids)
        self._freeze(freeze, only, trainable)
        self.clusters = store.clusters
        self.books: frozenset[str] = frozenset(store.books)
        self.grids = grids.records
        self.masks = held.Masks(self.weights, hold_zeros, store)

    def _compile(self, module: Module, store: Store, grids: quantizers.Plan) -> None:
        overrides = {**fusions(module), **grids.overrides}
        around = Surroundings(module.model, self.mode, store.leaves, overrides, frozenset(store.skipped))
        scope = Scope(around, known=store.known)
        values = [value for value in module.graph.inputs if not value.is_initializer()]
        slots = [scope.define(value, host=False) for value in values]
        scope.nodes(module.graph)
        if around.missing:
            raise NotTrainableError.of(tuple(dict.fromkeys(around.missing)))
        self._program = scope.finish(slots, module.graph.outputs)
        for slot, source in scope.sources.items():
            self._place(slot, source)

    def _place(self, slot: int, source: Source) -> None:
        if source.kind in ("host", "constant"):
            content = source.content
            assert content is not None
            if source.kind == "constant" and isinstance(content, torch.Tensor):
                self._placed.append((slot, "constant", self.constants.put(source.name, content, persistent=False)))
            else:
                self._on_host.append((slot, content))
        else:
            self._placed.append((slot, source.kind, source.name))

    def _freeze(self, freeze: Sequence[str], only: Sequence[str], trainable: bool) -> None:
        for name, parameter in self.weights.named_parameters():
            names = self.readers[name]
            fixed = not trainable or _matches(freeze, names) or (bool(only) and not _matches(only, names))
            parameter.requires_grad_(not fixed)
        if trainable and not any(parameter.requires_grad for parameter in self.weights.parameters()):
            if not self.readers:
                raise NotTrainableError("this graph has nothing to train: none of its constants is a learned weight")
            patterns = ", ".join(f"`{pattern}`" for pattern in (*freeze, *only))
            raise NotTrainableError(
                f"nothing is left to train: all {len(self.readers)} weights are frozen by {patterns}",
                help="see `mopt show --weights` for the names of layers and weights",
            )

    def parameter_of(self, weight: Weight | str) -> torch.Tensor:
        """Return the parameter (or running statistic) that a weight of the graph became.

        Raises:
            KeyError: it became none: it is a constant.
        """
        name = weight if isinstance(weight, str) else weight.name
        found: torch.Tensor = getattr(self.weights, self.names[name])
        return found

    def forward(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run the graph: tensors by input name in, by output name out (an output that is no tensor as it is).

        Raises:
            KeyError: an input is missing.
        """
        missing = [info.name for info in self.inputs if info.name not in feeds]
        if missing:
            raise KeyError(f"no value for input {', '.join(f'`{name}`' for name in missing)}")
        parts = {
            "weight": {**self.weights._parameters, **self.weights._buffers},
            "constant": self.constants._buffers,
            "quantizer": self.quantizers._modules,
        }
        device = self.device
        self.mode.training = self.training
        self.mode.device = device = None if device.type == "cpu" else device
        program = self._program
        slots: list[Any] = [None] * program.slots
        for slot, kind, name in self._placed:
            slots[slot] = parts[kind][name]
        for slot, content in self._on_host:
            slots[slot] = content
        for slot, info in zip(program.inputs, self.inputs, strict=True):
            slots[slot] = feeds[info.name]
        program.execute(slots, device)
        return {info.name: slots[slot] for info, slot in zip(self.outputs, program.outputs, strict=True)}

    @property
    def device(self) -> torch.device:
        """Where the runner is."""
        for tensor in (*self.weights._parameters.values(), *self.constants._buffers.values()):
            if tensor is not None:
                return tensor.device
        return torch.device("cpu")

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run once without gradients; arrays by input name in, by output name out, as `OrtRunner.run` does."""
        with torch.no_grad():
            found = self({name: _to(to_torch(array), self.device) for name, array in feeds.items()})
        return {name: to_numpy(content) for name, content in found.items()}


def _to(content: Content, device: torch.device) -> Content:
    return content.to(device) if isinstance(content, torch.Tensor) else content


def _matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)
