"""Carry the source model's own names into the graph: layer paths as origins of nodes, parameter names on weights.

`skip=["rnn*"]` in a recipe matches layer paths (`rnn`, `layer1.0.conv2`, `bidirectional/forward_lstm`), so every
node must know its layer, whatever the exporter called it.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir.module import Module
from mopt.ir.provenance import ORIGINS, stamp_source
from mopt.ir.walk import model_graphs

Parameters = Mapping[str, np.ndarray[Any, Any]]

_RECURRENT: Final = {"LSTM", "GRU", "RNN"}
_RECURRENT_SLOTS: Final = {1: "weight_ih", 2: "weight_hh", 3: "bias"}
_SLOTS: Final = {1: "weight", 2: "bias"}
_WEIGHTED: Final = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Mul"}
_CALLS: Final = {"StatefulPartitionedCall", "PartitionedCall"}
_SCOPES: Final = "pkg.torch.onnx.name_scopes"


def tidy(module: Module, parameters: Parameters) -> None:
    """Fold constants an exporter left unfolded and give shared initializers back to their parameters.

    The TorchScript exporter stores equal tensors once and hands the others an `Identity`: two batch norms that
    share a tensor by accident of their values must not be pruned as one.
    """
    import onnxscript.optimizer

    graph = module.graph
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "Identity" and node.inputs else None
        if value is None or value.const_value is None or not value.is_initializer():
            continue
        output = node.outputs[0]
        if output.is_graph_output():
            continue
        own = ir.Value(name=output.name, type=value.type, shape=value.shape, const_value=value.const_value)
        ir.convenience.replace_all_uses_with(output, own)
        graph.remove(node, safe=True)
        own.name = output.name
        graph.register_initializer(own)
    # only what an exporter computes from constants; sizes that a graph computes from its inputs stay
    onnxscript.optimizer.fold_constants(module.model, onnx_shape_inference=False, output_size_limit=1 << 40)
    onnxscript.optimizer.remove_unused_nodes(module.model)
    for node in graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) == 3 else None
        if bias is None or not bias.is_initializer() or bias.name in parameters or bias.const_value is None:
            continue
        if not np.any(bias.const_value.numpy()):  # torch.export invents zeros for a convolution without a bias
            node.resize_inputs(2)
    for value in list(graph.initializers.values()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[str(value.name)]
    module.touch()


def stamp_torch(module: Module, modules: Iterable[str]) -> None:
    """Stamp every node with the path of the submodule it comes from."""
    known = set(modules)

    def layer(node: ir.Node) -> str:
        scopes = node.metadata_props.get(_SCOPES)
        if scopes is not None:
            try:
                listed = ast.literal_eval(scopes)
            except (ValueError, SyntaxError):
                listed = []
            return next((str(name) for name in reversed(listed[:-1]) if name in known and name), "")
        return _torchscript_layer(node.name or "", known)

    def by_weight(node: ir.Node) -> str:
        names = (value.name or "" for value in node.inputs if value is not None and value.is_initializer())
        return next((path for path in (name.rpartition(".")[0] for name in names) if path in known), "")

    _stamp(module, lambda node: list(filter(None, (layer(node) or by_weight(node),))))


def stamp_keras(module: Module, layers: Iterable[str]) -> None:
    """Stamp every node with the path of the Keras layer it comes from (`bidirectional/forward_lstm`).

    TensorFlow makes scope names unique by a suffix (`conv2d` becomes `conv2d_1`), which can be another layer's
    name: the reading that explains more of the graph's scopes is taken. Without layers (a SavedModel does not
    say what they are), scopes are taken as they stand, less the model's own.
    """
    known = set(layers)
    if not known:
        _stamp_scopes(module)
        return
    scopes = [_scope(node.name or "") for graph in model_graphs(module.model) for node in graph]
    parts = {part for scope in scopes for part in scope}
    exact = {part for part in parts if part in known}
    suffixed = {part for part in parts if _without_number(part) != part and _without_number(part) in known}
    renumbered = len(suffixed) >= len(exact) and bool(suffixed - exact)

    def read(part: str) -> str:
        return _without_number(part) if renumbered else part

    def path(name: str) -> str:
        return "/".join(read(part) for part in _scope(name) if read(part) in known)

    def layers_of(node: ir.Node) -> list[str]:
        # a convolution that swallowed its batch norm carries the latter's name, and its own on its weights
        names = [value.name or "" for value in node.inputs if value is not None and value.is_initializer()]
        weights = [path(name) for name in names if len(_scope(name)) > 1] if node.op_type in _WEIGHTED else []
        return list(dict.fromkeys(found for found in (*weights, path(node.name or "")) if found))

    _stamp(module, layers_of, siblings="/")


def _stamp_scopes(module: Module) -> None:
    scopes = [_scope(node.name or "") for node in module.graph]
    roots = {scope[0] for scope in scopes if len(scope) > 1}
    shared = 1 if len(roots) == 1 else 0
    _stamp(
        module, lambda node: ["/".join(_scope(node.name or "")[shared:])] if _scope(node.name or "")[shared:] else []
    )


def name_weights(module: Module, parameters: Parameters, separator: str, words: Mapping[str, str]) -> None:
    """Give weights the names of the parameters they hold, also where an exporter transposed or reshaped them.

    What holds no single parameter (gates put together, a folded batch norm) is named after its layer and its
    place in the operator.

    Args:
        separator: between a layer's path and the parameter's own name.
        words: the framework's words for `weight` and `bias`.
    """
    graph = module.graph
    taken = {value.name for g in model_graphs(module.model) for value in _named_values(g)}
    free = {name: array for name, array in parameters.items() if name not in graph.initializers and array.size > 1}
    by_size: dict[int, list[str]] = {}
    for name, array in free.items():
        by_size.setdefault(array.size, []).append(name)
    counts: dict[str, int] = {}
    recurrent: dict[int, int] = {}
    for node in graph:
        if node.op_type in _RECURRENT:
            layer = _origin(node)
            recurrent[id(node)] = counts.get(layer, 0)
            counts[layer] = counts.get(layer, 0) + 1
    for node in graph:
        for slot, value in enumerate(node.inputs):
            if value is None or not value.is_initializer() or value.name in parameters or value.is_graph_input():
                continue
            tensor = value.const_value
            if tensor is None or tensor.size < 2 or not tensor.dtype.is_floating_point():
                continue
            held = _held(tensor.numpy(), by_size.get(tensor.size, []), free, _origin(node))
            if held is not None:
                by_size[tensor.size].remove(held)
            wanted = held or _placed(node, slot, separator, words, recurrent.get(id(node), 0))
            if wanted and wanted not in taken:
                taken.add(wanted)
                value.name = wanted
    module.touch()


def _held(array: np.ndarray[Any, Any], names: list[str], parameters: Parameters, layer: str) -> str | None:
    """Find the parameter that a weight holds in another layout; one of the node's own layer first."""
    flat = array.ravel()
    for name in sorted(names, key=lambda name: not (layer and name.startswith(layer))):
        candidate = parameters[name]
        if candidate.dtype != array.dtype:
            continue
        axes = range(candidate.ndim)
        for permutation in itertools.permutations(axes) if candidate.ndim <= 5 else [tuple(axes)]:
            turned = candidate.transpose(permutation)
            if np.array_equal(turned.reshape(-1)[:8], flat[:8]) and np.array_equal(turned.reshape(-1), flat):
                return name
    return None


def _placed(node: ir.Node, slot: int, separator: str, words: Mapping[str, str], number: int) -> str:
    layer = _origin(node)
    if not layer:
        return ""
    if node.op_type in _RECURRENT and slot in _RECURRENT_SLOTS:
        return f"{layer}{separator}{_RECURRENT_SLOTS[slot]}_l{number}"
    if node.op_type in ("Conv", "ConvTranspose", "Gemm") and slot in _SLOTS:
        return f"{layer}{separator}{words[_SLOTS[slot]]}"
    if node.op_type == "MatMul":
        return f"{layer}{separator}{words['weight']}"
    if node.op_type == "Add":
        return f"{layer}{separator}{words['bias']}"
    return ""


def _stamp(module: Module, layers_of: Callable[[ir.Node], list[str]], siblings: str = "") -> None:
    """Write origins; a node whose own name says nothing takes the layer of what it reads, else of what reads it.

    Args:
        siblings: a separator: what stands between two parts of one layer (the directions of a `Bidirectional`)
            belongs to that layer.
    """
    for graph in model_graphs(module.model):
        found = {id(node): layers_of(node) for node in graph}
        for forward in (True, False):
            for node in graph if forward else reversed(graph):
                if found[id(node)]:
                    continue
                near = (  # operands after the first one are weights more often than data
                    (value.producer() for value in reversed(node.inputs) if value is not None)
                    if forward
                    else (user for output in node.outputs for user, _ in output.uses())
                )
                layers = [layer for other in near if other for layer in found.get(id(other), [])[:1]]
                found[id(node)] = _nearest(layers, siblings)
        for node in graph:
            if found[id(node)]:
                node.metadata_props[ORIGINS] = json.dumps(found[id(node)], ensure_ascii=False)
    stamp_source(module)


def _nearest(layers: list[str], siblings: str) -> list[str]:
    if siblings:
        for layer in layers[1:]:
            parent = layer.rpartition(siblings)[0]
            if parent and layer != layers[0] and parent == layers[0].rpartition(siblings)[0]:
                return [parent]
    return layers[:1]


def _origin(node: ir.Node) -> str:
    listed = json.loads(node.metadata_props.get(ORIGINS, "[]"))
    return str(listed[0]) if listed else ""


def _torchscript_layer(name: str, known: set[str]) -> str:
    # `/layer1/layer1.0/conv2/Conv`: a container's children carry its name once more
    path = ""
    for part in name.strip("/").split("/")[:-1]:
        last = path.rpartition(".")[2]
        child = part.removeprefix(f"{last}.") if last else part
        for candidate in (f"{path}.{child}" if path else child, f"{path}.{part}" if path else part, part):
            if candidate in known:
                path = candidate
                break
    return path


def _scope(name: str) -> list[str]:
    return [part for part in name.split("/")[:-1] if part and part not in _CALLS]


def _without_number(part: str) -> str:
    return re.sub(r"_\d+$", "", part)


def _named_values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
