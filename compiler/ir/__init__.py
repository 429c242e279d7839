"""The graph IR: `Module` over onnx_ir, loading and saving, verification, provenance, text form.

This package imports onnx and onnx_ir; what must start fast imports it inside functions.
"""

from mopt.ir.errors import IRError, LoadError, SaveError
from mopt.ir.interface import Interface, interface_changes, interface_of
from mopt.ir.invariant import Violation
from mopt.ir.loading import load
from mopt.ir.module import Module, TensorInfo
from mopt.ir.proto import from_proto, to_proto
from mopt.ir.saving import save
from mopt.ir.shapes import Inference
from mopt.ir.text import content_hash, print_module
from mopt.ir.verification import verify
from mopt.ir.weights import Weight

__all__ = [
    "IRError",
    "Inference",
    "Interface",
    "LoadError",
    "Module",
    "SaveError",
    "TensorInfo",
    "Violation",
    "Weight",
    "content_hash",
    "from_proto",
    "interface_changes",
    "interface_of",
    "load",
    "print_module",
    "save",
    "to_proto",
    "verify",
]
