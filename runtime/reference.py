"""Running on a CPU what was prepared for a device that is not here, to judge it: the same numbers, at any speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.ort import OrtRunner


def reference(module: Module) -> OrtRunner:
    """Load a module into onnxruntime, whatever it was prepared for.

    bfloat16, for which onnxruntime has no kernels on a CPU, runs as float32. Its optimiser is off where quantisers have
    16-bit scales (1.31 computes those wrong) or give 8-bit floats (it raises, or makes a graph it refuses).
    """
    from mopt.runtime.ort import OrtRunner
    from mopt.runtime.trt.widen import widened

    return OrtRunner(widened(module), optimize=not _for_engines(module))


def _for_engines(module: Module) -> bool:
    """Say whether a `DequantizeLinear` has a 16-bit scale or reads 8-bit floats."""
    import onnx_ir as ir

    floats = (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2)
    for node in module.nodes():
        if node.op_type == "DequantizeLinear":
            stored, scale = (None if value is None else value.dtype for value in node.inputs[:2])
            if stored in floats or scale not in (None, ir.DataType.FLOAT):
                return True
    return False
