"""Block-wise quantisation over the nodes of a module."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.passes.contract import Context, Note, PassError, PassResult
from mopt.passes.quantize.codebooks import sees_codebooks
from mopt.passes.quantize.detect import first_quantized
from mopt.passes.quantize.dynamic_operators import constant
from mopt.passes.quantize.preparation import raise_opset
from mopt.passes.quantize.weights_gptq import second_moments
from mopt.passes.quantize.weights_graph import Quantizer
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.passes.quantize.weights import Weights

_BLOCKS: Final = (16, 32, 64, 128, 256)
_OPSET: Final = 21
"""The first opset with blocks in `DequantizeLinear`."""
_RESTORED: Final = frozenset({"Conv", "LSTM", "GRU"})
_WEIGHTED: Final = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LSTM": 1, "GRU": 1, "RNN": 1, "Gather": 0}


@sees_codebooks("quantize.weights")
def quantize(module: Module, options: Weights, context: Context) -> PassResult:
    """Quantise `module` in place. See `Weights.run`."""
    if options.bits not in (4, 8) or options.block not in _BLOCKS:
        raise PassError(
            f"bits={options.bits}, block={options.block} can't be stored",
            help=f"bits are 4 or 8; a block has {', '.join(map(str, _BLOCKS))} weights",
        )
    quantized = first_quantized(module)
    if quantized is not None:
        raise PassError(
            f"the graph is quantised already: node `{quantized.name}` is a {quantized.op_type}",
            node=quantized.name,
            help="start the pipeline from the float model",
        )
    module, raised = _raise_opset(module, options, context)
    module.infer_shapes()
    quantizer = Quantizer(module, options, _moments(module, options, context))
    done: dict[str, int] = defaultdict(int)
    left: dict[str, list[str]] = defaultdict(list)
    for node in list(module.nodes()):
        if node.domain != "" or not _reads_float_weight(node):
            continue
        operator, reason = node.op_type, _refused(node, options)
        if reason is None:
            reason = _rewrite(quantizer, node, options)
        if reason is None:
            done[operator] += 1
        else:
            left[f"{operator}: {reason}"].append(node.name or "")
    notes = [Note(f"{len(names)} left in float, {reason}", nodes=tuple(names)) for reason, names in left.items()]
    if raised:
        notes.insert(0, Note(raised))
    if not done:
        return PassResult(module, bool(raised), (Note("nothing was quantised", severity="warning"), *notes))
    module.touch()
    counts = ", ".join(f"{count} {operator}" for operator, count in sorted(done.items()))
    error = np.sqrt(quantizer.error / (quantizer.energy or 1))
    first = Note(
        f"quantised the weights of {counts}: {quantizer.elements:,} in {options.bits} bits, blocks of "
        f"{options.block}; root of the relative squared error {error:.2%}"
    )
    if options.data is not None:
        notes.insert(
            0, Note(f"{quantizer.gptq} weights of products were rounded GPTQ-style, the others to the nearest")
        )
    return PassResult(module, True, (first, *notes))


def _moments(module: Module, options: Weights, context: Context) -> dict[str, NDArray[np.float64]]:
    """Return the second moments of what products multiply their weights with; empty without data."""
    if options.data is None or options.form != "nbits":
        return {}
    inputs = [
        node.inputs[0].name
        for node in module.nodes()
        if node.op_type in ("MatMul", "Gemm") and node.inputs[0] is not None and _refused(node, options) is None
        and constant(node.inputs[1]) is not None
    ]  # fmt: skip
    return second_moments(module, list(dict.fromkeys(name for name in inputs if name)), options.data, context)


def _rewrite(quantizer: Quantizer, node: ir.Node, options: Weights) -> str | None:
    if node.op_type == "Gather":
        return quantizer.embedding(node)
    if options.form == "blocks" or node.op_type in _RESTORED:
        return quantizer.restore(node)
    return quantizer.product(node)


def _reads_float_weight(node: ir.Node) -> bool:
    index = _WEIGHTED.get(node.op_type)
    if index is None or index >= len(node.inputs):
        return False
    if node.op_type != "Gather":
        return True
    array = constant(node.inputs[0])
    return array is not None and array.dtype.kind == "f"


def _refused(node: ir.Node, options: Weights) -> str | None:
    if node.op_type not in options.operators:
        return "not among `operators`"
    if node.op_type == "Gather" and options.form == "blocks":
        return "the standard has no look-up of rows in blocks"
    names = (*provenance.origins(node), node.name or "")
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.skip for name in names):
        return "named by `skip`"
    return None


def _raise_opset(module: Module, options: Weights, context: Context) -> tuple[Module, str]:
    """Bring the module to an opset that has what `options` asks for; return it, and what to say of it."""
    present = {node.op_type for node in module.nodes() if node.domain == ""} & set(options.operators)
    needed = present - {"Gather"} if options.form == "blocks" else present & _RESTORED
    if not needed:
        return module, ""
    return raise_opset(module, context, _OPSET, f"blocks in DequantizeLinear need {_OPSET}")
