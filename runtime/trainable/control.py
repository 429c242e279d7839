"""`If`, `Loop` and `Scan`: their bodies are programs of their own, run as often as the data say.

What a body reads from outside are further arguments of its program. A condition that is known when the runner is built
leaves nothing but the branch it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import onnx_ir as ir
import torch
from mopt.runtime.trainable.sequence_map import sequence_map
from mopt.runtime.trainable.tensors import TORCH_DTYPES, to_numpy

if TYPE_CHECKING:
    from mopt.runtime.trainable.compiling import Scope
    from mopt.runtime.trainable.program import Mode, Program


def _if(scope: Scope, node: ir.Node) -> None:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    condition = node.inputs[0]
    assert condition is not None
    condition = scope.resolve(condition)
    if scope.is_known(condition):
        taken = branches[0] if bool(to_numpy(scope.known[condition]).reshape(-1)[0]) else branches[1]
        scope.nodes(taken)
        for output, meant in zip(node.outputs, taken.outputs, strict=True):
            scope.alias(output, meant)
        return
    inner = [scope.inner(graph) for graph in branches]
    hosts = [
        all(found.stays(graph.outputs[place]) for found, graph in zip(inner, branches, strict=True))
        for place in range(len(node.outputs))
    ]
    then, other = (found.finish((), graph.outputs, hosts) for found, graph in zip(inner, branches, strict=True))
    then_captures, other_captures = (scope.captured(found) for found in inner)
    mode, count = scope.around.mode, len(then_captures)

    def compute(chosen: Any, *captured: Any) -> Any:
        if bool(chosen):
            return tuple(then.run(captured[:count], mode.device))
        return tuple(other.run(captured[count:], mode.device))

    inputs = [scope.slot_of(condition, host=True), *then_captures, *other_captures]
    scope.append(node, compute, inputs, hosts, ())


def _loop(scope: Scope, node: ir.Node) -> None:
    body = node.attributes["body"].as_graph()
    limit, condition = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    initial = list(node.inputs[2:])
    carried = [value is None or scope.stays(value) for value in initial]
    while True:
        inner = scope.inner(body, [True, True, *carried])
        after = [inner.stays(value) for value in body.outputs[1:]]
        settled = [before and still for before, still in zip(carried, after, strict=False)]
        if settled == carried:
            break
        carried = settled
    hosts = [*carried, *after[len(carried) :]]
    program = inner.finish(inner.given, body.outputs, [True, *hosts])
    empty = [_empty(value) for value in body.outputs[1 + len(initial) :]]
    mode, count = scope.around.mode, len(initial)

    def compute(limit: Any, chosen: Any, *rest: Any) -> Any:
        states, captured = list(rest[:count]), rest[count:]
        rounds, most = 0, None if limit is None else int(limit)
        going = chosen is None or bool(chosen)
        scans: list[list[Any]] = [[] for _ in empty]
        while going and (most is None or rounds < most):
            results = program.run((torch.tensor(rounds), torch.tensor(going), *states, *captured), mode.device)
            going = bool(results[0])
            states = results[1 : 1 + count]
            for found, value in zip(scans, results[1 + count :], strict=True):
                found.append(value)
            rounds += 1
        stacked = [torch.stack(found) if found else none() for found, none in zip(scans, empty, strict=True)]
        return (*states, *stacked)

    slots = [scope.slot_of(limit, host=True), scope.slot_of(condition, host=True)]
    slots += [scope.slot_of(value, host=stay) for value, stay in zip(initial, carried, strict=True)]
    moves = tuple(
        2 + place for place, (value, stay) in enumerate(zip(initial, carried, strict=True))
        if value is not None and not stay and scope.resolve(value) in scope.host
    )  # fmt: skip
    scope.append(node, compute, slots + scope.captured(inner), hosts, moves)


def _scan(scope: Scope, node: ir.Node) -> None:
    body = node.attributes["body"].as_graph()
    count = node.attributes["num_scan_inputs"].as_int()
    batched = scope.around.module.opset_imports.get("", 0) < 9
    inputs = list(node.inputs[1:] if batched else node.inputs)
    states = len(inputs) - count
    inner = scope.inner(body, [False] * len(inputs))
    program = inner.finish(inner.given, body.outputs, [False] * len(body.outputs))
    scan = _scan_of(node, program, scope.around.mode, states, count, len(body.outputs) - states)
    lengths = scope.slot_of(node.inputs[0], host=True) if batched else None
    slots = [scope.slot_of(value) for value in inputs]
    first = 0
    if lengths is not None:
        slots, first = [lengths, *slots], 1
    compute = _each_of_batch(scan, states, count) if batched else scan
    moves = tuple(
        first + place for place, value in enumerate(inputs)
        if value is not None and scope.resolve(value) in scope.host
    )  # fmt: skip
    scope.append(node, compute, slots + scope.captured(inner), [False] * len(node.outputs), moves)


def _scan_of(
    node: ir.Node, program: Program, mode: Mode, states: int, count: int, results: int
) -> Callable[..., tuple[Any, ...]]:
    def numbers(name: str, length: int) -> Sequence[int]:
        found = node.attributes.get(name)
        return [0] * length if found is None else list(found.as_ints())

    axes, output_axes = numbers("scan_input_axes", count), numbers("scan_output_axes", results)
    backwards = numbers("scan_input_directions", count)
    if "directions" in node.attributes:
        backwards = numbers("directions", count)
    output_backwards = numbers("scan_output_directions", results)

    def compute(*given: Any) -> tuple[Any, ...]:
        state, captured = list(given[:states]), given[states + count :]
        sequences = [tensor.unbind(axis) for tensor, axis in zip(given[states : states + count], axes, strict=True)]
        sequences = [items[::-1] if back else items for items, back in zip(sequences, backwards, strict=True)]
        scans: list[list[Any]] = [[] for _ in range(results)]
        for items in zip(*sequences, strict=True):
            found = program.run((*state, *items, *captured), mode.device)
            state = found[:states]
            for scanned, value in zip(scans, found[states:], strict=True):
                scanned.append(value)
        outputs = [
            torch.stack(scanned[::-1] if back else scanned, axis)
            for scanned, axis, back in zip(scans, output_axes, output_backwards, strict=True)
        ]
        return (*state, *outputs)

    return compute


def _each_of_batch(scan: Callable[..., tuple[Any, ...]], states: int, count: int) -> Callable[..., tuple[Any, ...]]:
    """Opset 8's Scan runs once for each element of a batch, whose sequences may be shorter than the tensor."""

    def compute(lengths: Any, *given: Any) -> tuple[Any, ...]:
        batch, captured = given[: states + count], given[states + count :]
        found = []
        for number in range(batch[0].shape[0]):
            own = [tensor[number] for tensor in batch]
            total = own[states].shape[0]
            length = total if lengths is None else int(lengths[number])
            results = scan(*own[:states], *(tensor[:length] for tensor in own[states:]), *captured)
            padded = [
                torch.cat([tensor, tensor.new_zeros((total - length, *tensor.shape[1:]))])
                for tensor in results[states:]
            ]
            found.append((*results[:states], *padded))
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    return compute


def _empty(value: ir.Value) -> Callable[[], torch.Tensor]:
    """Return what makes a scan output of no rounds; sizes that are not known are zero."""
    dims = [dim if isinstance(dim, int) else 0 for dim in value.shape or ()]
    dtype = TORCH_DTYPES.get(value.dtype or ir.DataType.FLOAT, torch.float32)
    return lambda: torch.empty((0, *dims), dtype=dtype)


COMPILERS: Final[dict[str, Callable[[Scope, ir.Node], None]]] = {
    "If": _if, "Loop": _loop, "Scan": _scan, "SequenceMap": sequence_map,
}  # fmt: skip
"""Operator → how a scope compiles a node of it."""
