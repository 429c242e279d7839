"""That a step which trains a quantised graph leaves its grids alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mopt.build.contracts import ContractError

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.ir import Module

_QDQ = ("QuantizeLinear", "DequantizeLinear")


def check_grids(before: Module, after: Module) -> None:
    """Check that every QuantizeLinear and DequantizeLinear is there with its scale, zero point and element type.

    Raises:
        ContractError: naming the node.
    """
    known = _grids(before)
    if not known:
        return
    found = _grids(after)
    for name, grid in known.items():
        if name not in found:
            raise ContractError(f"node `{name}` quantised before this step and is gone")
        if found[name] != grid:
            raise ContractError(f"the quantisation grid of node `{name}` is another one after this step")


def _grids(module: Module) -> dict[str, tuple[object, ...]]:
    constants = {weight.value: weight for weight in module.weights()}

    def content(value: ir.Value | None) -> object:
        if value is None or value not in constants:
            return None
        tensor = constants[value].tensor
        return str(tensor.dtype), tensor.tobytes()

    grids: dict[str, tuple[object, ...]] = {}
    for node in module.nodes(functions=True):
        if node.op_type in _QDQ:
            quantised = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
            dtype = str(quantised.dtype) if quantised is not None else ""
            grids[node.name or ""] = (node.op_type, dtype, *(content(value) for value in node.inputs[1:]))
    return grids
