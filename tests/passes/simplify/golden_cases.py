"""Reading golden cases: plain files named after the rule, `== description`, a graph, `-- becomes` or `-- unchanged`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir
from mopt.ir import Module, from_proto

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Case:
    """One case: `after` is the expected graph, or None where `reason` says why the rule must not fire."""

    rule: str
    title: str
    before: str
    after: str | None
    reason: str
    opset: int

    def __str__(self) -> str:
        return f"{self.rule}: {self.title}"

    def module(self, text: str | None = None) -> Module:
        """Parse the graph before the rule, or the given one."""
        header = f'<ir_version: 10, opset_import: ["" : {self.opset}]>\n'
        return from_proto(onnx.parser.parse_model(header + (self.before if text is None else text)))


def read(path: Path) -> list[Case]:
    """Return the cases of one file."""
    found = []
    for part in re.split(r"^== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        version = re.search(r"\(opset (\d+)\)", title)
        before, _, rest = body.partition("\n-- ")
        verdict, _, after = rest.partition("\n")
        opset = int(version[1]) if version else 17
        if verdict.startswith("unchanged:"):
            found.append(Case(path.stem, title, before, None, verdict.removeprefix("unchanged:").strip(), opset))
        else:
            assert verdict.strip() == "becomes", f"{path}: {verdict!r}"
            found.append(Case(path.stem, title, before, after, "", opset))
    return found


def signature(module: Module) -> object:
    """Describe what a module computes, up to names of inner values and the order of independent nodes."""
    graph = module.graph
    count = sum(1 for _ in module.nodes())
    return count, tuple((value.name, _value(value)) for value in graph.outputs)


def _value(value: ir.Value | None) -> object:
    if value is None:
        return None
    node = value.producer()
    if node is not None:
        inputs = tuple(_value(source) for source in node.inputs)
        attributes = tuple(sorted((name, _attribute(a)) for name, a in node.attributes.items()))
        return node.op_type, attributes, inputs, value.index()
    if value.const_value is not None:
        array = value.const_value.numpy()
        return str(array.dtype), array.shape, tuple(f"{item:.5g}" for item in array.reshape(-1).tolist())
    return value.name


def _attribute(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.GRAPH:
        return str([_value(value) for value in attribute.as_graph().outputs])
    if attribute.type == ir.AttributeType.TENSOR:
        return str(attribute.as_tensor().numpy().tolist())
    if attribute.type == ir.AttributeType.FLOAT:
        return f"{attribute.as_float():.5g}"
    return str(attribute.value)
