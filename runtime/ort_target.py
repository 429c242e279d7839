"""The `ort` target: an ONNX file, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from mopt.plugin import option, register
from mopt.runtime.contract import Artifact, Availability, Sizes, Target, TargetError
from mopt.values import ByteSize

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.ort import OrtRunner
    from mopt.runtime.ort_options import GpuOptions

_UNLIMITED: Final = ByteSize(0)


@register("ort")
@dataclass(frozen=True)
class OrtTarget(Target):
    """onnxruntime on a CPU, or on an NVIDIA GPU by its CUDA or TensorRT provider.

    Emits `model.onnx` (with `model.onnx.data` beside it where the weights do not fit into one file).
    """

    tools: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu", "onnxruntime")

    provider: Literal["cpu", "cuda", "tensorrt"] = option("cpu", help="execution provider")
    threads: int = option(1, minimum=1, help="CPU threads inside one operator")
    optimize: Literal["none", "basic", "extended", "all"] = option(
        "all", help="onnxruntime's own optimisations at load"
    )
    sparse: bool = option(
        False, help="store weights with many zeros as what is not zero and where; they are dense again once loaded"
    )
    provenance: bool = option(False, help="keep in the file which source nodes and steps each node comes from")
    cuda_graph: bool = option(
        False, help="GPU: record the kernels of a run once, and launch them as one; for one size of inputs at a time"
    )
    tf32: bool = option(False, help="GPU: let float32 convolutions and products round to TF32")
    layout: Literal["nchw", "nhwc"] = option("nchw", help="GPU: of convolutions; `nhwc` suits tensor cores")
    search: Literal["exhaustive", "heuristic", "default"] = option(
        "exhaustive", help="GPU: how cuDNN's algorithm for a convolution is chosen"
    )
    memory: ByteSize = option(_UNLIMITED, help="GPU: most memory of the arena, and of a TensorRT layer; 0: no limit")
    cache: str = option("", help="`provider=tensorrt`: folder that keeps engines and timings between sessions")
    provider_options: Mapping[str, str] = option(
        factory=dict, help="further options of the provider, in onnxruntime's words; they win"
    )
    session_options: Mapping[str, str] = option(
        factory=dict, help="entries of the session's configuration, in onnxruntime's words"
    )

    def __post_init__(self) -> None:
        """Refuse options that the provider has not got.

        Raises:
            ValueError: names them.
        """
        given = {
            "cuda_graph": self.cuda_graph, "tf32": self.tf32, "layout": self.layout != "nchw",
            "search": self.search != "exhaustive", "memory": int(self.memory) > 0,
        }  # fmt: skip
        named = [name for name, is_set in given.items() if is_set] if self.provider == "cpu" else []
        if self.cache and self.provider != "tensorrt":
            named.append("cache")
        if named:
            raise ValueError(f"{', '.join(f'`{name}`' for name in named)}: not with `provider={self.provider}`")

    def runs_on_gpu(self) -> bool:
        """Tell whether the provider is a GPU's."""
        return self.provider != "cpu"

    def available(self) -> Availability:
        """Look at this machine; a provider is only there if its library loads and a device answers."""
        from importlib.metadata import PackageNotFoundError, version

        versions = {}
        for package in ("onnxruntime-gpu", "onnxruntime"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                continue
        if not versions:
            return Availability(True, False, "onnxruntime is not installed", "pip install onnxruntime")
        if self.provider == "cpu":  # it is in every build, and importing onnxruntime costs half a second
            return Availability(True, True, versions=versions)
        from mopt.runtime.ort_provider import provider_problem

        problem = provider_problem(self.provider)
        if problem:
            return Availability(True, False, problem.reason, problem.help, versions)
        return Availability(True, True, versions=versions)

    def emit(self, module: Module, folder: Path, sizes: Sizes | None = None) -> Artifact:
        """Write `model.onnx`."""
        del sizes
        from mopt.ir import IRError, save
        from mopt.runtime.emission import artifact

        path = folder / "model.onnx"
        notes: tuple[str, ...] = ()
        if self.sparse:
            from mopt.rewrite.sparse_storage import store_sparse

            module = module.clone()
            stored = store_sparse(module)
            before, after = sum(one.before for one in stored), sum(one.after for one in stored)
            notes = (f"{len(stored)} weights stored sparse: {before:,} bytes are {after:,}",)
        try:
            files = save(module, path, provenance=self.provenance)
        except IRError as error:
            raise TargetError(f"the model can't be written as ONNX: {error}") from error
        return artifact(path, files, notes)

    def open(self, artifact: Artifact) -> OrtRunner:
        """Load the file with the declared provider, and no other in its stead."""
        from mopt.runtime.ort import OrtRunner

        return OrtRunner(
            artifact.path,
            provider=self.provider,
            threads=self.threads,
            optimize=self.optimize,
            options=self._gpu_options(),
            entries=self.session_options,
        )

    def _gpu_options(self) -> GpuOptions:
        from mopt.runtime.ort_options import GpuOptions

        return GpuOptions(
            self.cuda_graph, self.tf32, self.layout, self.search, int(self.memory), self.cache, self.provider_options
        )
