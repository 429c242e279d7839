"""A pass, a source, a target and a metric that mopt finds by entry point."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mopt.passes.contract import Context, Pass, PassResult
from mopt.plugin import option, register
from mopt.runtime.contract import Artifact, Availability, Metric, Source, SourceResult, Target


@register("example.negate")
@dataclass(frozen=True)
class Negate(Pass):
    """Change the sign of every weight."""

    times: int = option(1, help="How often.", minimum=1)

    def run(self, module, context: Context) -> PassResult:
        for weight in module.weights():
            if weight.is_parameter and self.times % 2:
                weight.replace(-weight.numpy())
        return PassResult(module, self.times % 2 == 1)


@register("example")
@dataclass(frozen=True)
class Linear(Source):
    """A matrix product with made-up weights."""

    size: int = option(4, help="Features.", minimum=1)

    def load(self, scratch: Path, seed: int) -> SourceResult:
        import numpy as np
        import onnx
        from mopt.ir import from_proto
        from mopt.ir.provenance import stamp_source
        from onnx import TensorProto, helper, numpy_helper

        weight = np.random.default_rng(seed).normal(size=(self.size, 3)).astype(np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", self.size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
            [numpy_helper.from_array(weight, "w")],
        )
        module = from_proto(onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
        stamp_source(module)
        return SourceResult(module, ("made up",))


@register("example")
@dataclass(frozen=True)
class Folder(Target):
    """Writes the text form of the graph; can't run."""

    def available(self) -> Availability:
        return Availability(can_emit=True, can_run=False, reason="it only writes text")

    def emit(self, module, folder: Path) -> Artifact:
        from mopt.ir import print_module

        path = folder / "model.txt"
        path.write_text(print_module(module), encoding="utf-8")
        size = path.stat().st_size
        return Artifact(path, (path,), size, size)


@register("largest")
@dataclass(frozen=True)
class Largest(Metric):
    """The largest output."""

    def start(self, module=None):
        return _State()


class _State:
    def __init__(self) -> None:
        self.value = float("-inf")

    def update(self, outputs, targets) -> None:
        self.value = max([self.value, *(float(array.max()) for array in outputs.values())])

    def compute(self) -> float:
        return self.value
