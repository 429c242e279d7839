"""`SequenceMap`: one graph run on every element of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.runtime.trainable.compiling import Scope


def sequence_map(scope: Scope, node: ir.Node) -> None:
    """Compile a node: further sequences go along with the first, tensors are the same at every element."""
    body = node.attributes["body"].as_graph()
    inner = scope.inner(body, [False] * len(body.inputs))
    program = inner.finish(inner.given, body.outputs, [False] * len(body.outputs))
    mode, count = scope.around.mode, len(node.inputs)

    def compute(*arguments: Any) -> tuple[list[Any], ...]:
        given, captured = arguments[:count], arguments[count:]
        results: list[list[Any]] = [[] for _ in body.outputs]
        for place in range(len(given[0])):
            own = [value[place] if isinstance(value, list) else value for value in given]
            for result, value in zip(results, program.run((*own, *captured), mode.device), strict=True):
                result.append(value)
        return tuple(results)

    slots = [scope.slot_of(value) for value in node.inputs]
    moves = tuple(
        place for place, value in enumerate(node.inputs) if value is not None and scope.resolve(value) in scope.host
    )
    scope.append(node, compute, slots + scope.captured(inner), [False] * len(node.outputs), moves)
