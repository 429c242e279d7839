"""Putting what was trained back into the graph, in place, in the form in which the graph keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from mopt.ir import Module, Weight
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_graphs
from mopt.runtime.trainable.quantizers import Record

if TYPE_CHECKING:
    from mopt.runtime.trainable.runner import TrainableModule


def write_back(runner: TrainableModule, module: Module) -> tuple[str, ...]:
    """Write a runner's weights into a module.

    Every weight keeps its element type; one that several nodes read is written once. Codebooks get their new values
    and keep their indices; quantised weights are rounded to their grid; running statistics of batch normalisations are
    written where they moved; the grids of quantisers that learned them, too.

    Args:
        module: what the runner was made from, or a clone of it.

    Returns:
        The names of the weights that changed.

    Raises:
        KeyError: the module lacks a weight.
    """
    runner.masks.apply()
    named = {weight.name: weight for weight in module.weights()}
    quantised = {record.weight: record for record in runner.grids if record.weight is not None}
    changed = []
    for name, safe in runner.names.items():
        if name not in named:
            if name in runner.books:
                continue
            raise KeyError(f"the module has no weight `{name}`")
        weight = named[name]
        content = getattr(runner.weights, safe).detach().cpu()
        if name in quantised:
            array = _integers(runner, quantised[name], content, weight)
        elif name in runner.clusters:
            places = runner.clusters[name].places
            array = _typed(content.numpy()[places].reshape(weight.shape), weight)
        else:
            array = _typed(content.numpy(), weight)
        if not _equal(array, weight.numpy()):
            _replace(weight, array)
            changed.append(name)
    for record in runner.grids:
        changed += _grid(runner, record, module)
    if changed:
        module.touch()
    return tuple(changed)


def _typed(array: np.ndarray[Any, Any], weight: Weight) -> np.ndarray[Any, Any]:
    return array.astype(weight.tensor.dtype.numpy())


def _integers(runner: TrainableModule, record: Record, content: torch.Tensor, weight: Weight) -> np.ndarray[Any, Any]:
    quantizer: Any = runner.quantizers[record.quantizer]
    with torch.no_grad():
        device = quantizer.scale.device
        integers = quantizer.integers(content.to(device)).round().to(torch.int64).cpu()
    array: np.ndarray[Any, Any] = integers.numpy().astype(weight.tensor.dtype.numpy())
    return array


def _equal(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _replace(weight: Weight, array: np.ndarray[Any, Any]) -> None:
    dtype = weight.tensor.dtype
    if dtype.bitwidth >= 8:
        weight.replace(array)
        return
    # numpy has no such type of its own: the tensor has to be told.
    tensor = ir.Tensor(array, dtype=dtype, name=weight.value.name)
    if weight.node is None:
        weight.value.const_value = tensor
    else:
        weight.node.attributes["value"] = ir.AttrTensor("value", tensor)


def _grid(runner: TrainableModule, record: Record, module: Module) -> list[str]:
    """Write a quantiser's scale and zero point into the nodes that it is, where they differ from what these have."""
    quantizer: Any = runner.quantizers[record.quantizer]
    weights = {weight.value: weight for weight in module.weights()}
    changed = []
    nodes = [node for node in module.nodes() if node.name in record.nodes]
    made: dict[int, ir.Value] = {}
    for node in nodes:
        for place, tensor in ((1, quantizer.scale), (2, quantizer.zero_point)):
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is None:
                continue
            weight = weights[value]
            array = tensor.detach().cpu().numpy().reshape(weight.shape).astype(weight.tensor.dtype.numpy())
            if _equal(array, weight.numpy()):
                continue
            if place not in made:
                made[place] = _initializer(
                    module, f"{record.quantizer}_{('scale', 'zero_point')[place - 1]}", array, weight
                )
                changed.append(made[place].name or "")
            node.replace_input_with(place, made[place])
            if not value.uses() and weight.node is None:
                weight.graph.initializers.pop(value.name or "")
    return changed


def _initializer(module: Module, name: str, array: np.ndarray[Any, Any], like: Weight) -> ir.Value:
    """Make a new constant: the old one may be the grid of others, too."""
    taken = {value.name or "" for graph in nested_graphs(module.graph) for value in graph_values(graph)}
    label = fresh(name, taken)
    dtype = like.tensor.dtype
    value = ir.Value(
        name=label, type=ir.TensorType(dtype), shape=ir.Shape(array.shape),
        const_value=ir.Tensor(array, dtype=dtype, name=label),
    )  # fmt: skip
    module.graph.initializers[label] = value
    return value
