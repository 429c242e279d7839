"""Patterns of nodes that torch has one operator for."""

from __future__ import annotations

import onnx_ir as ir
from mopt.ir import Module
from mopt.runtime.trainable.compiling import Override
from mopt.runtime.trainable.weights import Store


def fusions(module: Module, store: Store) -> dict[ir.Node, Override]:
    """Return, for the last node of every pattern found, how to compute it from the pattern's inputs."""
    del module, store
    return {}
