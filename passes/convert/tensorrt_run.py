"""Lowering a quantised graph to TensorRT, node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassResult
from mopt.passes.convert import (
    tensorrt_activations,
    tensorrt_blocks,
    tensorrt_constants,
    tensorrt_dynamic,
    tensorrt_float8,
    tensorrt_rtx,
)
from mopt.passes.convert.tensorrt_graph import Lowering, refusal
from mopt.passes.quantize.detect import QUANTIZED, first_quantized
from mopt.passes.quantize.preparation import raise_opset

LOWERINGS: Final[dict[str, Callable[[Lowering, ir.Node], None]]] = {
    "MatMulNBits": tensorrt_blocks.product,
    "GatherBlockQuantized": tensorrt_blocks.embedding,
    "MatMulInteger": tensorrt_dynamic.product,
    "ConvInteger": tensorrt_dynamic.product,
    "DynamicQuantizeLSTM": tensorrt_dynamic.lstm,
    "Gather": tensorrt_dynamic.rows,
    "DequantizeLinear": tensorrt_constants.lower,
    "QuantizeLinear": tensorrt_activations.lower,
}
"""By operator. A pair of activations is lowered at its QuantizeLinear, after the constants of its graph."""
_TAKEN: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
_AXIS: Final = 13
_COARSER: Final = (
    "asymmetric activations moved onto symmetric int8 grids with steps up to twice as wide; "
    "`quantize.static(…, placement=tensorrt)` calibrates for such grids"
)


def lower(module: Module, context: Context, *, rtx: bool = False, floats: bool = False) -> PassResult:
    """Lower `module` in place, with `rtx` for its kernels, with `floats` to E4M3. See `TensorRT.run`."""
    if first_quantized(module) is None:
        return PassResult(module, False)
    module, raised = _raised(module, context)
    notes = [Note(raised)] if raised else []
    if floats:
        module, raised = raise_opset(module, context, tensorrt_float8.OPSET, "8-bit floats")
        notes += [Note(raised)] if raised else []
    editor = Lowering(module)
    for operator, lowering in LOWERINGS.items():
        for node in [node for node in module.nodes() if node.op_type == operator]:
            if node.graph is not None:  # not removed with another
                lowering(editor, node)
    for node in [node for node in module.nodes() if node.op_type == "Conv"] if rtx else []:
        tensorrt_rtx.convolution(editor, node)
    for node in list(module.nodes()) if floats else []:
        tensorrt_float8.grid(editor, node)
    editor.clear()
    for node in module.nodes():
        if node.op_type in QUANTIZED and node.op_type not in _TAKEN:
            raise refusal(node, "it has no such operator, and there is no other form of this one")
    if not editor.done and not notes:
        return PassResult(module, False)
    module.touch()
    module.infer_shapes()
    notes += [Note(f"{count} {what}") for what, count in editor.done.items()]
    if tensorrt_activations.KEPT in editor.done:
        notes.append(Note(_COARSER, severity="warning"))
    return PassResult(module, True, tuple(notes))


def _raised(module: Module, context: Context) -> tuple[Module, str]:
    """Bring a module to the opset that its lowered forms need."""
    operators = {node.op_type for node in module.nodes()}
    if any(tensorrt_blocks.fits(node) for node in module.nodes() if node.op_type == "MatMulNBits"):
        opset = tensorrt_blocks.OPSET
        module, raised = raise_opset(module, context, opset, f"int4 weights in blocks need {opset}")
        module.model.ir_version = max(module.model.ir_version or 0, tensorrt_blocks.IR_VERSION)
        return module, raised
    if operators & {"MatMulInteger", "ConvInteger", "Gather"}:
        return raise_opset(module, context, _AXIS, f"DequantizeLinear has an axis from {_AXIS} on")
    return module, ""
