"""The `ort` target: an ONNX file, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.plugin import option, register
from mopt.runtime.contract import Artifact, Availability, Sizes, Target, TargetError

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.ort import OrtRunner


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
    provider_options: Mapping[str, str] = option(
        factory=dict, help="the provider's own options, in onnxruntime's words: `{trt_fp16_enable: \"1\"}`"
    )

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
        from mopt.runtime.ort import provider_help, provider_problem

        problem = provider_problem(self.provider)
        if problem:
            return Availability(True, False, problem, provider_help(self.provider), versions)
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
            options=self.provider_options,
        )
