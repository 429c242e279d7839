"""The layers of a built engine: what was fused with what, at which precision, from which nodes and source layers.

TensorRT's builder writes the layers of the engine it chose to its log when detailed names are asked for, and names
the ONNX nodes behind each. That needs no GPU, whereas the engine inspector needs the engine loaded on one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import TargetError

if TYPE_CHECKING:
    from mopt.ir import Module

LAYERS: Final = "model.engine.layers.json"
"""The file beside an engine that lists its layers."""

_LAYER: Final = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>.*?), StreamId: \d+, Metadata: ?(?P<metadata>.*)",
)
_TENSOR: Final = re.compile(
    r"\{ ?Name: (?P<name>.*?), Dimensions: \[(?P<shape>[^\]]*)\],.*?"
    r"Datatype: (?P<dtype>[^,]*?), Format: (?P<format>.*?) ?\}"
)
_NODE: Final = re.compile(r"\[ONNX Layer: (.*?)\](?=\[|\x1e|\x1f|$)")
_DTYPES: Final = {
    "Float": "f32", "Half": "f16", "BFloat16": "bf16", "Int8": "i8", "UInt8": "u8", "Int32": "i32", "Int64": "i64",
    "Bool": "bool", "FP8": "f8", "Int4": "i4", "FP4": "f4",
}  # fmt: skip


@dataclass(frozen=True)
class EngineTensor:
    """A tensor between layers: its name there, element type (`f16`), dimensions (-1 is dynamic), memory layout."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name, kind: in TensorRT's words; `tactic` is the kernel it chose, where it says so.
        inputs, outputs: tensors; `constants` are weights that it reads.
        nodes: the IR nodes behind it; none for layers of TensorRT's own (a change of layout, shape arithmetic).
        layers: the source layers that those nodes come from.
    """

    name: str
    kind: str
    tactic: str
    inputs: tuple[EngineTensor, ...]
    constants: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    nodes: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """What it computes in: the type of its first input tensor, `i8→f16` where its result is of another one."""
        read = next((tensor.dtype for tensor in self.inputs), "")
        written = next((tensor.dtype for tensor in self.outputs), "")
        return read if read == written or not written else f"{read}→{written}" if read else written

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def write_layers(
    module: Module, capabilities: Sequence[str], lists: Sequence[Sequence[str]], path: Path
) -> Path | None:
    """Write the layers of an engine for each capability, those that are alike once; None where there are none.

    Args:
        module: what the engine was built from, with its provenance.
        capabilities: what it was built for, in the builder's order.
        lists: what the builder logged, a list of lines for each capability.
        path: where to.
    """
    from mopt.ir.provenance import origins

    if not lists:
        return None
    sources = {node.name: origins(node) for node in module.nodes() if node.name}
    variants: list[list[dict[str, Any]]] = []
    which = {}
    # TensorRT-RTX chooses layers once for all capabilities, and kernels when the engine is first loaded.
    for place, name in enumerate(capabilities):
        lines = lists[min(place, len(lists) - 1)]
        layers = [layer.to_json() for layer in with_sources(from_log(lines), sources)]
        if layers not in variants:
            variants.append(layers)
        which[name] = variants.index(layers)
    path.write_text(json.dumps({"capabilities": which, "variants": variants}) + "\n", encoding="utf-8")
    return path


def read_layers(engine: Path) -> dict[str, list[EngineLayer]]:
    """Return an engine's layers by the capability it was built for.

    Raises:
        TargetError: nothing beside the engine lists them.
    """
    path = engine.with_name(f"{engine.name}.layers.json")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {name: from_json(stored["variants"][place]) for name, place in stored["capabilities"].items()}
    except OSError as error:
        raise TargetError(
            f"{engine}: its layers are not known", help=f"keep `{path.name}`, which `mopt compile` writes beside it"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise TargetError(f"{path} is damaged: {error}", help="compile the recipe again") from error


def from_log(lines: Sequence[str]) -> list[EngineLayer]:
    """Read layers from what the builder logged; lines that describe none are skipped."""
    found = []
    for line in lines:
        match = _LAYER.match(line.strip())
        if match is None:
            continue
        inputs, constants, outputs = (_tensors(match[key]) for key in ("inputs", "constants", "outputs"))
        nodes = tuple(dict.fromkeys(_NODE.findall(match["metadata"])))
        found.append(EngineLayer(match["name"], match["kind"], match["tactic"], inputs, constants, outputs, nodes))
    return found


def from_json(layers: Sequence[Mapping[str, Any]]) -> list[EngineLayer]:
    """Read layers from the description beside an engine."""

    def tensors(stored: Sequence[Mapping[str, Any]]) -> tuple[EngineTensor, ...]:
        return tuple(EngineTensor(t["name"], t["dtype"], tuple(t["shape"]), t["layout"]) for t in stored)

    return [
        EngineLayer(
            layer["name"], layer["kind"], layer["tactic"],
            tensors(layer["inputs"]), tensors(layer["constants"]), tensors(layer["outputs"]),
            tuple(layer["nodes"]), tuple(layer["layers"]),
        )
        for layer in layers
    ]  # fmt: skip


def with_sources(layers: Sequence[EngineLayer], origins: Mapping[str, Sequence[str]]) -> list[EngineLayer]:
    """Add the source layers, given those of each node by its name."""
    return [
        EngineLayer(
            layer.name, layer.kind, layer.tactic, layer.inputs, layer.constants, layer.outputs, layer.nodes,
            tuple(dict.fromkeys(origin for node in layer.nodes for origin in origins.get(node, ()))),
        )
        for layer in layers
    ]  # fmt: skip


def _tensors(text: str) -> tuple[EngineTensor, ...]:
    return tuple(
        EngineTensor(
            match["name"],
            _DTYPES.get(match["dtype"], match["dtype"].lower()),
            tuple(int(size) for size in match["shape"].split(",") if size.strip()),
            match["format"],
        )
        for match in _TENSOR.finditer(text)
    )
