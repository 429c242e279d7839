"""A pass, a source, a target and a metric that mopt finds by entry point."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mopt.passes.contract import Context, Pass, PassError, PassResult
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

    def emit(self, module, folder: Path, sizes=None) -> Artifact:
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


@register("example.slow")
@dataclass(frozen=True)
class Slow(Pass):
    """Add a line to a file, take a while, then change the sign of every weight."""

    log: str = option("", help="Where to write a line when it starts.")
    seconds: float = option(30.0, help="How long it takes; none if the file `fast` stands beside the log.")

    def run(self, module, context: Context) -> PassResult:
        import time

        path = Path(self.log)
        with path.open("a", encoding="utf-8") as file:
            file.write("started\n")
        (context.scratch / "half").write_text("half-written", encoding="utf-8")
        deadline = time.monotonic() + self.seconds
        with context.progress("waiting", 100) as progress:
            while time.monotonic() < deadline and not (path.parent / "fast").exists():
                time.sleep(0.05)
                progress.advance()
        return Negate().run(module, context)


@register("example.misbehave")
@dataclass(frozen=True)
class Misbehave(Pass):
    """Break one of the rules a pass must keep."""

    how: Literal["raise", "fail", "interface", "invalid", "drift"] = option("raise", help="Which rule.")
    equivalence = 1e-4

    def run(self, module, context: Context) -> PassResult:
        import onnx_ir as ir

        if self.how == "raise":
            raise RuntimeError("something nobody expected")
        if self.how == "fail":
            raise PassError("there is nothing to do here", node="product", help="leave this step out")
        if self.how == "interface":
            module.graph.outputs[0].name = "z"
        if self.how == "invalid":
            node = next(iter(module.graph))
            node.replace_input_with(0, ir.Value(name="from nowhere"))
        if self.how == "drift":
            return Negate().run(module, context)
        module.touch()
        return PassResult(module, True)


@register("example.dense")
@dataclass(frozen=True)
class Dense(Pass):
    """Fill zeros in again, which an earlier pruning promised would stay."""

    def run(self, module, context: Context) -> PassResult:
        for weight in module.weights():
            if weight.is_parameter:
                weight.replace(weight.numpy() + 1)
        return PassResult(module, True)
