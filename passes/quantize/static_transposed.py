"""Transposed convolutions for integer kernels: what doubles an image without overlap is a convolution and a shuffle.

onnxruntime has no integer ConvTranspose. One whose kernel is its stride b writes each b × b block from one pixel: a
1 × 1 convolution to b² times the channels, then DepthToSpace (Shi et al. 2016, arXiv:1609.05158 and 1609.07009).
The same sums in the same order, and both run on bytes. DepthToSpace and the way back from channels-last cost about
1.1 ns an element, an integer product saves 0.0075 ns a MAC (one thread, AVX-512 VNNI, onnxruntime 1.31): from about
107 input channels on it pays. Others keep their weights in 8 bits and run in float.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Note
from mopt.passes.quantize.dynamic_graph import Editor
from mopt.rewrite.constants import constant_array

PAYS: Final = 128
"""Input channels from which the integer form is faster."""


def decompose(module: Module, nodes: Iterable[ir.Node]) -> list[Note]:
    """Write those of the given transposed convolutions as Conv and DepthToSpace that gain; say which."""
    editor = Editor(module, signed=True, by="quantize.static")
    done = tuple(node.name or "" for node in list(nodes) if _decompose(editor, node))
    if not done:
        return []
    module.touch()
    return [Note(f"{len(done)} ConvTranspose written as Conv and DepthToSpace, which run on bytes", nodes=done)]


def _decompose(editor: Editor, node: ir.Node) -> bool:
    block = _block(node)
    weight = constant_array(node.inputs[1])
    x, source, bias = node.inputs[0], node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if block is None or weight is None or weight.dtype != np.float32 or weight.shape[0] < PAYS:
        return False
    offset = None if bias is None else constant_array(bias)
    if x is None or source is None or (bias is not None and offset is None):
        return False
    inputs, channels = weight.shape[:2]
    kernel = weight.transpose(1, 2, 3, 0).reshape(channels * block**2, inputs, 1, 1)
    label = node.outputs[0].name or node.name or ""
    read = [x, editor.constant(kernel, f"{source.name}_as_conv")]
    if offset is not None:
        read.append(editor.constant(np.repeat(offset, block**2), f"{label}_bias"))
    (product,) = editor.insert(node, "Conv", read, label=f"{label}_blocks")
    last = node
    behind = _relu_behind(node)
    if behind is not None:
        (product,) = editor.insert(node, "Relu", [product], label=f"{label}_blocks_relu")
        last = behind
    attributes = {"blocksize": ir.AttrInt64("blocksize", block), "mode": ir.AttrString("mode", "CRD")}
    (shuffled,) = editor.insert(node, "DepthToSpace", [product], label=f"{label}_shuffled", attributes=attributes)
    editor.replace(last, [shuffled])
    if last is not node:
        assert node.graph is not None
        node.graph.remove(node, safe=True)
    return True


def _block(node: ir.Node) -> int | None:
    """Return the stride of a two-dimensional node whose kernel is its stride, and nothing else is set."""
    weight = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
        return None
    block = int(weight.shape[2])

    def ints(name: str, default: list[int]) -> list[int]:
        return list(node.attributes[name].as_ints()) if name in node.attributes else default

    plain = (
        block > 1
        and ints("strides", [1, 1]) == [block, block]
        and not any(ints("pads", []))
        and not any(ints("output_padding", []))
        and "output_shape" not in node.attributes
        and all(step == 1 for step in ints("dilations", []))
        and ("group" not in node.attributes or node.attributes["group"].as_int() == 1)
        and ("auto_pad" not in node.attributes or node.attributes["auto_pad"].as_string() in ("NOTSET", "VALID"))
    )
    return block if plain else None


def _relu_behind(node: ir.Node) -> ir.Node | None:
    """Return the Relu that alone reads the result: before the shuffle it costs an integer kernel nothing."""
    (output,) = node.outputs
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output():
        return None
    reader = uses[0].node
    return reader if reader.op_type == "Relu" and reader.domain == "" and reader.graph is node.graph else None
