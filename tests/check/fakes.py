"""Plug-ins with every kind of option, for the checker's tests. None of them can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mopt.passes.contract import Pass
from mopt.plugin import option, register
from mopt.runtime.contract import DataSource, Loss, Metric, Source, Target
from mopt.values import (
    ByteSize,
    DataRef,
    Duration,
    Globs,
    Location,
    LossRef,
    MetricRef,
    ModelRef,
    NofM,
    PythonRef,
    Ratio,
    TensorType,
)


@register("simplify")
@dataclass(frozen=True)
class Simplify(Pass):
    rounds: int = option(10, minimum=1, maximum=100)


@register("convert")
@dataclass(frozen=True)
class Convert(Pass):
    opset: int | None = option(None, minimum=7)
    batchnorm: Literal["fold", "keep"] = "keep"
    dynamic: Mapping[str, tuple[int | str, ...]] = option(factory=dict)
    extra: Any = None


@register("prune.magnitude")
@dataclass(frozen=True)
class Magnitude(Pass):
    amount: Ratio = option(help="the share of weights that become zero")
    scope: Literal["global", "local"] = "global"
    skip: Globs = ()
    gives = ("sparsity",)
    needs_float = True
    needs_dense = True


@register("prune.channels")
@dataclass(frozen=True)
class Channels(Pass):
    amount: Ratio = option(help="the share of channels that go")
    criterion: Literal["l1", "l2", "fpgm", "random"] = "l1"
    skip: Globs = ()
    round_to: int = option(1, minimum=1)
    needs_float = True
    breaks = ("sparsity",)


@register("prune.nm")
@dataclass(frozen=True)
class Nm(Pass):
    pattern: NofM
    needs_float = True
    gives = ("sparsity",)


@register("tune")
@dataclass(frozen=True)
class Tune(Pass):
    data: DataRef
    loss: LossRef
    epochs: int = option(1, minimum=1)
    rate: float = option(1e-3, minimum=0)
    budget: Duration | None = None
    best: MetricRef | None = None
    trains = True


@register("distill.response")
@dataclass(frozen=True)
class Response(Pass):
    teacher: ModelRef
    data: DataRef
    temperature: float = 1.0
    alpha: float = option(0.5, minimum=0, maximum=1)
    epochs: int = 1
    trains = True


@register("quantize.static")
@dataclass(frozen=True)
class Static(Pass):
    data: DataRef
    method: Literal["minmax", "entropy"] = "minmax"
    bits: Literal[4, 8] = 8
    quantizes = True


@register("cluster.kmeans")
@dataclass(frozen=True)
class Kmeans(Pass):
    clusters: int = option(16, minimum=2)
    codebook: ByteSize = option(ByteSize(4096))
    symmetric: bool = False
    packs = True
    needs_float = True

    def __post_init__(self) -> None:
        if self.symmetric and self.clusters % 2:
            raise ValueError("a symmetric codebook needs an even number of clusters")


@register("cluster.expand")
@dataclass(frozen=True)
class Expand(Pass):
    unpacks = True


@register("onnx")
@dataclass(frozen=True)
class Onnx(Source):
    path: Location


@register("torch")
@dataclass(frozen=True)
class Torch(Source):
    model: PythonRef | Location
    weights: Location | None = None
    inputs: Mapping[str, TensorType] = option(factory=dict)
    args: Mapping[str, object] = option(factory=dict)


@register("python")
@dataclass(frozen=True)
class PythonData(DataSource):
    factory: PythonRef
    seed: int = 0
    args: Mapping[str, object] = option(factory=dict)


@register("random")
@dataclass(frozen=True)
class RandomData(DataSource):
    shapes: Mapping[str, TensorType]
    samples: int = option(16, minimum=1)


@register("python")
@dataclass(frozen=True)
class PythonLoss(Loss):
    function: PythonRef


@register("mse")
@dataclass(frozen=True)
class Mse(Loss):
    pass


@register("ctc")
@dataclass(frozen=True)
class Ctc(Loss):
    blank: int = 0


@register("focal")
@dataclass(frozen=True)
class Focal(Loss):
    gamma: float


@register("python")
@dataclass(frozen=True)
class PythonMetric(Metric):
    function: PythonRef
    goal: Literal["min", "max"] = "max"


@register("cer")
@dataclass(frozen=True)
class Cer(Metric):
    goal = "min"


@register("accuracy")
@dataclass(frozen=True)
class Accuracy(Metric):
    top: int = option(1, minimum=1)


@register("mse")
@dataclass(frozen=True)
class MseMetric(Metric):
    goal = "min"


@register("ort")
@dataclass(frozen=True)
class Ort(Target):
    provider: Literal["cpu", "cuda"] = "cpu"
    threads: int = option(1, minimum=1)


@register("trt")
@dataclass(frozen=True)
class Trt(Target):
    precision: Literal["fp16", "fp32"] = "fp32"


TABLES = {
    "passes": {
        "simplify": "Simplify",
        "convert": "Convert",
        "prune.magnitude": "Magnitude",
        "prune.channels": "Channels",
        "prune.nm": "Nm",
        "tune": "Tune",
        "distill.response": "Response",
        "quantize.static": "Static",
        "cluster.kmeans": "Kmeans",
        "cluster.expand": "Expand",
    },
    "sources": {"onnx": "Onnx", "torch": "Torch"},
    "data": {"python": "PythonData", "random": "RandomData"},
    "losses": {"python": "PythonLoss", "mse": "Mse", "ctc": "Ctc", "focal": "Focal"},
    "metrics": {"python": "PythonMetric", "cer": "Cer", "accuracy": "Accuracy", "mse": "MseMetric"},
    "targets": {"ort": "Ort", "trt": "Trt"},
}
