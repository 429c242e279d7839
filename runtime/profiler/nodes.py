"""Time by operator and by source layer, from onnxruntime's own profiler, mapped back to the module.

onnxruntime is asked for the graph it really runs and for the time of each of its operators; `regions` says which of
the module's nodes an operator stands for, and provenance which source layers those come from. Its profiler counts in
whole microseconds and slows small operators down: shares say where time goes, and the model's own time is measured
apart, without it. On a GPU, see `trace`.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import TargetError
from mopt.runtime.profiler.regions import Operator, regions
from mopt.runtime.profiler.trace import trace

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir
    from mopt.ir import Module
    from mopt.runtime.ort_provider import Provider

_SUFFIX: Final = "_kernel_time"
_LAYOUT: Final = frozenset({"ReorderInput", "ReorderOutput", "Memcpy", "MemcpyFromHost", "MemcpyToHost"})
"""Operators that onnxruntime puts in for itself: another memory layout, a copy to or from the device."""
_NCHWC: Final = "_nchwc"
_TOKEN: Final = re.compile(r"_token_\d+$")
"""What onnxruntime puts behind the name of a node when it lays out anew what the node writes."""
_INTEGER: Final = ("QLinear", "QGemm", "QAttention")
"""How the names of operators start that onnxruntime makes of one with its QuantizeLinear and DequantizeLinear."""
_GRID: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
_ABSORBED: Final = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid"})


@dataclass(frozen=True)
class OperatorTime:
    """What one operator of the runtime takes.

    Attributes:
        operator: its type there (`FusedConv`, `ReorderInput`).
        provider: the execution provider that runs it, in onnxruntime's words.
        seconds: median over the runs; a share of `share` of all operators' time.
        nodes: the module's nodes that it stands for; none: the runtime's own (a layout change, a copy).
        layers: the source layers that those nodes come from.
    """

    operator: str
    provider: str
    seconds: float
    share: float
    nodes: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class NodeProfile:
    """Where a run's time goes.

    Attributes:
        seconds: sum of the operators' times in one run.
        operators: the slowest first.
        folded: how many of the module's nodes no operator stands for: computed once, at load.
    """

    seconds: float
    operators: tuple[OperatorTime, ...]
    folded: int

    def by_layer(self) -> tuple[tuple[str, float], ...]:
        """Return (source layers, share of the time), the largest first; layers that run fused share one line."""
        return self._summed(lambda time: " + ".join(time.layers) or f"({time.operator}: onnxruntime's own)")

    def by_operator(self) -> tuple[tuple[str, float], ...]:
        """Return (operator type, share of the time), the largest first."""
        return self._summed(lambda time: time.operator)

    def elsewhere(self, provider: str) -> tuple[OperatorTime, ...]:
        """Return the operators that another provider runs than the one asked for (`CUDAExecutionProvider`)."""
        return tuple(time for time in self.operators if time.provider != provider)

    def _summed(self, label: Any) -> tuple[tuple[str, float], ...]:
        shares: dict[str, float] = defaultdict(float)
        for time in self.operators:
            shares[label(time)] += time.share
        return tuple(sorted(shares.items(), key=lambda item: (-item[1], item[0])))

    def to_json(self) -> dict[str, Any]:
        """Return plain data, times in seconds."""
        return {
            "seconds": self.seconds, "folded": self.folded, "operators": [asdict(time) for time in self.operators],
        }  # fmt: skip


def node_times(
    module: Module,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    *,
    provider: Provider = "cpu",
    threads: int = 1,
    runs: int = 20,
    warmup: int = 3,
    apart: bool | None = None,
) -> NodeProfile:
    """Run a module under onnxruntime's profiler.

    Args:
        module: what to run, with its provenance.
        feeds: its inputs.
        provider, threads: as for `OrtRunner`.
        runs: runs that count; `warmup` runs before them do not.
        apart: see `trace`.

    Raises:
        TargetError: onnxruntime refuses the model, lacks the provider, or tells no node's time (TensorRT).
        RunError: the model does not take the inputs.
    """
    if provider == "tensorrt":
        raise TargetError(
            "onnxruntime tells no node's time inside of a TensorRT engine",
            help="use `--provider cuda`; `mopt show` tells the layers of an engine of the `trt` target",
        )
    with tempfile.TemporaryDirectory(prefix="mopt-") as text:
        events, graph = trace(
            module, feeds, Path(text), provider=provider, threads=threads, runs=warmup + runs, apart=apart
        )
    seen = _durations(events, warmup)
    nodes = regions(module, _operators(module, graph))
    total = sum(seconds for seconds, _, _ in seen.values())
    times = [_time(name, seen[name], total, nodes.get(name, ())) for name in seen]
    used = {node for region in nodes.values() for node in region}
    folded = sum(node not in used for node in module.graph if node.op_type != "Constant")
    return NodeProfile(total, tuple(sorted(times, key=lambda time: (-time.seconds, time.nodes))), folded)


def _time(name: str, seen: tuple[float, str, str], total: float, nodes: tuple[ir.Node, ...]) -> OperatorTime:
    from mopt.ir.provenance import origins

    seconds, operator, provider = seen
    nodes = tuple(node for node in nodes if node.op_type != "Constant")
    # Nodes that the source has not got (a decomposition, a constant) carry their neighbours' origins or none. What
    # moves values onto a grid and back is of one layer or the other's; the operator itself says whose time it is.
    telling = [node for node in nodes if node.op_type not in _GRID] or nodes
    layers = dict.fromkeys(origin for node in telling for origin in (origins(node) or (node.name or "",)) if origin)
    return OperatorTime(
        operator, provider, seconds, seconds / total if total else 0.0,
        tuple(node.name or node.op_type for node in nodes), tuple(layers),
    )  # fmt: skip


def _durations(events: list[dict[str, Any]], warmup: int) -> dict[str, tuple[float, str, str]]:
    """Return (seconds a run, operator, provider) by the runtime's node name."""
    series: dict[str, list[float]] = defaultdict(list)
    about: dict[str, tuple[str, str]] = {}
    timed = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX)]
    end = -1
    for event in sorted(timed, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] + event["dur"] <= end and event["ts"] < end:
            continue  # inside an If or a Loop, whose own time holds it
        end = event["ts"] + event["dur"]
        name = event["name"].removesuffix(_SUFFIX)
        series[name].append(event["dur"] * 1e-6)
        about[name] = (event["args"].get("op_name", ""), event["args"].get("provider", ""))
    # A mean of the middle half: whole microseconds make a median of small times jump.
    return {name: (_middle(times[warmup:] or times), *about[name]) for name, times in series.items()}


def _middle(times: list[float]) -> float:
    ordered = sorted(times)
    quarter = len(ordered) // 4
    return statistics.fmean(ordered[quarter : len(ordered) - quarter])


def _operators(module: Module, graph: onnx.GraphProto) -> list[Operator]:
    """Return what onnxruntime runs, with the module's tensors that each writes."""
    known = {value.name for node in module.graph for value in node.outputs}
    by_name = {node.name: node for node in module.graph if node.name}
    operators = []
    for node in graph.node:
        if node.op_type in _LAYOUT:
            continue
        writes = [name for name in node.output if name in known]
        # In its blocked layout a convolution writes a tensor of another name; its own is named after the module's.
        name = _TOKEN.sub("", node.name)
        if not writes and name.removesuffix(_NCHWC) in known:
            writes = [name.removesuffix(_NCHWC)]
        elif not writes and name in by_name:
            writes = [value.name for value in by_name[name].outputs if value.name]
            if node.op_type.startswith(_INTEGER):
                writes = [_rounded(by_name[name].outputs[0]).name or ""]
        operators.append(Operator(node.name, tuple(writes)))
    return operators


def _rounded(value: ir.Value) -> ir.Value:
    """Return what an operator on integers writes in place of `value`: what QuantizeLinear makes of it.

    An activation function between the two is part of the operator.
    """
    while True:
        readers = list(dict.fromkeys(use.node for use in value.uses()))
        for reader in readers:
            if reader.op_type == "QuantizeLinear":
                return reader.outputs[0]
        if len(readers) != 1 or readers[0].op_type not in _ABSORBED:
            return value
        value = readers[0].outputs[0]
