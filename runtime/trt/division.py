"""A graph that TensorRT can't take whole: engines for the parts it takes, onnxruntime for the rest.

What is refused is found by trying: nodes that a refusal names are set apart and the graph is cut anew, into the fewest
engines there can be. Where a refusal names none, the shortest beginning of the part that fails ends with the culprit.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import TargetError
from mopt.runtime.trt.engine import Settings, build_engine, capabilities_of
from mopt.runtime.trt.interface import single_interface
from mopt.runtime.trt.library import Found
from mopt.runtime.trt.measure import Shapes, measure, uncertain
from mopt.runtime.trt.parts import MANIFEST
from mopt.runtime.trt.refusal import RefusedError, described
from mopt.runtime.trt.shapes import Plan
from mopt.runtime.trt.widen import widened

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.analysis.partition import Part
    from mopt.ir.module import Module

_ROUNDS: Final = 64
"""Refusals after which it is given up: a graph that is refused that often has hardly a part worth an engine."""
_COUNTED: Final = "its sizes depend on values, and an engine is built for a range of sizes"
_FEW: Final = "too few nodes between others for an engine of their own"

Build = Callable[["Module", Sequence[Plan], Path], Sequence[str]]
"""Writes the engine of a module at the first plan that can be built into a folder, and returns notes."""


@dataclass(frozen=True)
class Division:
    """A module in parts.

    Attributes:
        parts, modules: in the order they run; those of refused nodes are for onnxruntime.
        refused: why nodes are not in an engine.
        engines: by an accepted part's place, the folder its engine was built into and the notes of that.
    """

    parts: tuple[Part, ...]
    modules: tuple[Module, ...]
    refused: Mapping[ir.Node, str]
    engines: Mapping[int, tuple[Path, Sequence[str]]]


def build_parts(
    module: Module, found: Found, settings: Settings, plans: Sequence[Plan], folder: Path, first: RefusedError
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Write engines, ONNX files and the list of them (`parts.MANIFEST`, returned first) into a folder.

    Args:
        module, found, settings, plans, folder: as for `build_engine`.
        first: what TensorRT said of the whole.

    Raises:
        TargetError: no part of it is worth an engine, or can't be built for another reason than a node.
    """
    from mopt.ir import save

    with tempfile.TemporaryDirectory(prefix="mopt-") as scratch:

        def build(part: Module, profiles: Sequence[Plan], place: Path) -> Sequence[str]:
            return build_engine(part, found, settings, profiles, place)[1]

        division = divide(module, plans, settings.values, build, Path(scratch), first)
        files: list[Path] = []
        entries = []
        notes: dict[str, None] = {}
        for at, (part, alone) in enumerate(zip(division.parts, division.modules, strict=True)):
            name = f"part{at + 1}"
            if part.accepted:
                place, told = division.engines[at]
                notes |= dict.fromkeys(told)
                files += [
                    _moved(file, folder / file.name.replace("model", name, 1)) for file in sorted(place.iterdir())
                ]
                name += ".engine"
            else:
                name += ".onnx"
                files += save(alone, folder / name)
            entries.append(_entry(name, part, alone, division.refused))
        manifest = folder / MANIFEST
        manifest.write_text(json.dumps(_manifest(module, found, settings, plans[0], entries), indent=2) + "\n", "utf-8")
    return (manifest, *files), (_summary(division), *notes)


def divide(
    module: Module,
    plans: Sequence[Plan],
    values: Mapping[str, float],
    build: Build,
    scratch: Path,
    first: RefusedError,
) -> Division:
    """Find the parts, building the engines on the way.

    Raises:
        TargetError: as `build_parts`.
    """
    from mopt.analysis.partition import partition

    nodes = {node.name or "": node for node in module.graph}
    refused = {nodes[name]: why for name, why in first.nodes.items()} or _culprit(
        module, (), plans, values, build, scratch, tuple(module.graph)
    )
    refused |= {node: _COUNTED for node in uncertain(module) if node not in refused}
    done: dict[tuple[str, ...], tuple[Path, Sequence[str]]] = {}
    for _ in range(_ROUNDS):
        parts = partition(module, refused)
        if not any(part.accepted for part in parts):
            raise TargetError(f"{first}; no part of it is worth an engine", help="emit this pipeline for `ort` instead")
        modules, told = _modules(module, parts, plans, values), {}
        for at, part in enumerate(parts):
            if not part.accepted:
                continue
            key = tuple(node.name or "" for node in (*part.nodes, *part.carried))
            if key not in done:
                place = Path(tempfile.mkdtemp(dir=scratch))
                try:
                    done[key] = place, build(*modules[at], place)
                except RefusedError as error:
                    members = {*part.nodes, *part.carried}
                    told = {nodes[name]: why for name, why in error.nodes.items() if nodes.get(name) in members}
                    told = told or _culprit(module, tuple(refused), plans, values, build, scratch, part.nodes)
                    break
        if not told:
            break
        refused |= told
    else:
        raise TargetError(f"{first}; {_ROUNDS} rounds of setting nodes apart did not end")
    engines = {
        at: done[tuple(node.name or "" for node in (*part.nodes, *part.carried))]
        for at, part in enumerate(parts)
        if part.accepted
    }
    return Division(parts, tuple(alone for alone, _ in modules), refused, engines)


def _modules(
    module: Module, parts: Sequence[Part], plans: Sequence[Plan], values: Mapping[str, float]
) -> list[tuple[Module, list[Plan]]]:
    """Cut the parts out, each with the profiles of its own inputs."""
    import onnx_ir as ir
    from mopt.ir.cut import cut

    wanted = sorted({value.name or "" for part in parts for value in part.inputs})
    measured, taken = [], []
    for plan in plans:
        try:
            measured.append(measure(module, wanted, plan, values))
            taken.append(plan)
        except TargetError:  # a guess at sizes that do not go together; the next plan is narrower
            if plan is plans[-1] and not measured:
                raise
    found = []
    for part in parts:
        names = [value.name or "" for value in part.inputs]
        shapes = {name: _dimensions(name, measured[0].shapes) for name in names}
        alone = cut(module, {*part.nodes, *part.carried}, part.inputs, part.outputs, shapes)
        for value in alone.graph.inputs:
            if value.type is None:  # behind an operator that shape inference does not know
                value.type = ir.TensorType(ir.DataType.from_numpy(measured[0].dtypes[value.name or ""]))
        if part.accepted:
            single_interface(alone)
            alone.infer_shapes()
            open_ones = [port.name for port in alone.inputs if any(isinstance(size, str) for size in port.shape)]
            profiles = [
                Plan({}, {name: at_sizes.shapes[name] for name in open_ones}, plan.note)
                for plan, at_sizes in zip(taken, measured, strict=True)
            ]
        else:
            alone, profiles = widened(alone, float16=True), []
        found.append((alone, profiles))
    return found


def _dimensions(name: str, measured: Shapes) -> tuple[int | str, ...]:
    """Fix what has one size at all three, and leave the rest open."""
    low, likely, high = measured[name]
    return tuple(
        a if a == b == c else f"{name}_{axis}" for axis, (a, b, c) in enumerate(zip(low, likely, high, strict=True))
    )


def _culprit(
    module: Module,
    refused: Sequence[ir.Node],
    plans: Sequence[Plan],
    values: Mapping[str, float],
    build: Build,
    scratch: Path,
    nodes: Sequence[ir.Node],
) -> dict[ir.Node, str]:
    """Find the node that makes a part fail: the last one of the shortest beginning of it that does."""
    from mopt.analysis.partition import isolate

    low, high, reason = 0, len(nodes), "the builder refuses what it is part of and names no node"
    while high - low > 1:
        middle = (low + high) // 2
        part = isolate(module, nodes[:middle], refused)
        [(alone, profiles)] = _modules(module, [part], plans, values)
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            try:
                build(alone, profiles, Path(place))
                low = middle
            except RefusedError as error:
                high = middle
                reason = str(error).partition(": ")[2] or reason
    return {nodes[high - 1]: reason}


def _entry(name: str, part: Part, alone: Module, refused: Mapping[ir.Node, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "file": name,
        "runtime": "tensorrt" if part.accepted else "onnxruntime",
        "operators": dict(Counter(node.op_type for node in part.nodes).most_common()),
        "nodes": [node.name for node in part.nodes],
        "inputs": [port.name for port in alone.inputs],
        "outputs": [port.name for port in alone.outputs],
    }
    if not part.accepted:
        entry["reasons"] = {described(node): refused.get(node, _FEW) for node in part.nodes}
    return entry


def _manifest(
    module: Module, found: Found, settings: Settings, plan: Plan, entries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    from mopt import __version__

    return {
        "built_by": {"mopt": __version__, found.library: found.version},
        "capabilities": capabilities_of(found, settings),
        "profile": {key: list(sizes) for key, sizes in plan.ranges.items()},
        "inputs": [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in module.inputs],
        "outputs": [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in module.outputs],
        "parts": list(entries),
    }


def _summary(division: Division) -> str:
    whole = sum(len(part.nodes) for part in division.parts)
    taken = [len(part.nodes) for part in division.parts if part.accepted]
    engines = "1 engine holds" if len(taken) == 1 else f"{len(taken)} engines hold"
    others = len(division.parts) - len(taken)
    rest = "1 part runs" if others == 1 else f"{others} parts run"
    reasons = "; ".join(f"{described(node)}: {why}" for node, why in list(division.refused.items())[:3])
    more = f"; and {len(division.refused) - 3} more" if len(division.refused) > 3 else ""
    return f"{engines} {sum(taken)} of {whole} nodes, {rest} with onnxruntime on the CPU: {reasons}{more}"


def _moved(source: Path, target: Path) -> Path:
    """Move a file, also to another file system."""
    import shutil

    return Path(shutil.move(source, target))
