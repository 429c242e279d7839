"""Dynamic quantisation over the nodes of a module."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.passes.contract import Context, Note, PassError, PassResult
from mopt.passes.quantize.codebooks import sees_codebooks
from mopt.passes.quantize.detect import first_quantized
from mopt.passes.quantize.dynamic_graph import Editor
from mopt.passes.quantize.dynamic_operators import REWRITES, Limits, constant
from mopt.passes.quantize.dynamic_select import Verdict, chosen_note, verdicts
from mopt.passes.quantize.preparation import left_in_float, raise_opset

if TYPE_CHECKING:
    from mopt.passes.quantize.dynamic import Dynamic

OPSET: Final = 11
"""The first opset with `DynamicQuantizeLinear`."""

_WEIGHTED: Final = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LSTM": 1, "GRU": 1, "RNN": 1, "Gather": 0}


@sees_codebooks("quantize.dynamic")
def quantize(module: Module, options: Dynamic, context: Context) -> PassResult:
    """Quantise `module` in place. See `Dynamic.run`."""
    quantized = first_quantized(module)
    if quantized is not None:
        raise PassError(
            f"the graph is quantised already: node `{quantized.name}` is a {quantized.op_type}",
            node=quantized.name,
            help="start the pipeline from the float model",
        )
    module, raised = raise_opset(module, context, OPSET, f"DynamicQuantizeLinear needs {OPSET}")
    # Shapes stored in a file may be stale; nothing below reads one before it was inferred afresh.
    module.infer_shapes()
    editor = Editor(module, signed=options.signed)
    limits = Limits(options.per_channel, options.min_elements)
    done: dict[str, int] = defaultdict(int)
    left: dict[str, list[ir.Node]] = defaultdict(list)
    readers = [node for node in module.nodes() if node.domain == "" and _reads_float_weight(node)]
    judged: dict[ir.Node, Verdict] = {}
    if options.select != "all":
        judged = verdicts(module, [n for n in readers if _refused(n, options) is None], options, limits, context)
    for node in readers:
        operator, reason = node.op_type, _refused(node, options)
        if reason is None and node in judged and not judged[node].pays:
            reason = judged[node].reason
        if reason is None:
            reason = REWRITES[operator](editor, node, limits)
        if reason is None:
            done[operator] += 1
        else:
            left[f"{operator}: {reason}"].append(node)
    choice = chosen_note(judged)
    if not done and not raised:
        nothing = Note("nothing was quantised", severity="warning")
        return PassResult(module, False, (nothing, *choice, *left_in_float(left)))
    module.touch()
    counts = ", ".join(f"{count} {operator}" for operator, count in sorted(done.items())) or "nothing"
    notes = [Note(f"quantised {counts}: {editor.elements:,} weights in 8 bits")]
    if raised:
        notes.append(Note(raised))
    if done.get("LSTM"):
        notes.append(Note("DynamicQuantizeLSTM is onnxruntime's own operator: other runtimes refuse the model"))
    return PassResult(module, True, (*notes, *choice, *left_in_float(left)))


def _reads_float_weight(node: ir.Node) -> bool:
    index = _WEIGHTED.get(node.op_type)
    if index is None or index >= len(node.inputs):
        return False
    if node.op_type != "Gather":
        return True
    array = constant(node.inputs[0])
    return array is not None and array.dtype.kind == "f"


def _refused(node: ir.Node, options: Dynamic) -> str | None:
    if node.op_type not in REWRITES:
        return "no integer form of it is supported"
    if node.op_type not in options.operators:
        return "not among `operators`"
    names = (*provenance.origins(node), node.name or "")
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.skip for name in names):
        return "named by `skip`"
    return None
