"""The `trt` target: a TensorRT engine, built on the spot or ahead of time for GPUs that are not here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mopt.plugin import option, register
from mopt.runtime.contract import Artifact, Availability, Sizes, Target, TargetError
from mopt.values import ByteSize

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.contract import Runner

NO_GPU = "no GPU here: built, not timed"

_FLOAT8: Final = 89
"""The first compute capability that multiplies 8-bit floats."""
_UNLIMITED: Final = ByteSize(0)

Capability = Literal["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"]


@register("trt")
@dataclass(frozen=True)
class TrtTarget(Target):
    """TensorRT, through `tensorrt` on a machine with a GPU, else through `tensorrt_rtx` for named GPUs.

    Emits `model.engine` and `model.engine.json`, which says what built it, from what, for which GPUs and sizes; of a
    graph in parts `model.parts.json`, and for each part an engine or an ONNX file.
    """

    sized: ClassVar[bool] = True
    tools: ClassVar[tuple[str, ...]] = ("tensorrt", "tensorrt_rtx_cu13")

    precision: Literal["fp32", "fp16", "bf16"] = option(
        "fp32", help="networks are strongly typed: fp16 and bf16 convert the graph before it is emitted"
    )
    grids: Literal["int8", "e4m3"] = option(
        "int8", help="what 8-bit quantised graphs run in: integers, or 8-bit floats on GPUs from sm89 on"
    )
    capabilities: tuple[Capability, ...] = option(
        ("sm80", "sm86", "sm89", "sm120"),
        help="GPUs to build for ahead of time (`tensorrt_rtx`), by compute capability",
    )
    profile: Mapping[str, tuple[int, ...]] = option(
        factory=dict, help="sizes of dynamic dimensions: `{N: [1, 1, 8], W: [32, 320, 1280]}` as [min, opt, max]"
    )
    values: Mapping[str, float] = option(
        factory=dict, help="inputs that always have one value: `{sr: 16000}`; what depends on them is folded"
    )
    workspace: ByteSize = option(_UNLIMITED, help="most scratch memory of a layer on the GPU; 0: TensorRT's choice")
    level: int = option(3, minimum=0, maximum=5, help="how hard the builder searches")
    tf32: bool = option(False, help="let float32 convolutions and products round to TF32")
    timing_cache: bool = option(False, help="let the builder reuse timings of earlier builds; the engine may then vary")
    refit: bool = option(False, help="weights of the built engine can be replaced (`mopt.runtime.trt.refit`)")
    version_compatible: bool = option(False, help="`tensorrt`: later versions load the engine, too")
    hardware: Literal["none", "ampere_plus", "same_compute_capability"] = option(
        "none", help="`tensorrt`: which other GPUs run the engine"
    )
    partition: bool = option(
        False, help="a graph that can't go whole becomes the fewest engines, with onnxruntime for the rest"
    )
    library: Literal["auto", "tensorrt", "tensorrt_rtx"] = option("auto", help="which TensorRT to build with")

    def runs_on_gpu(self) -> bool:
        """Engines do."""
        return True

    def available(self) -> Availability:
        """Look at this machine: libraries and GPUs; nothing is imported."""
        from mopt.runtime.trt.library import INSTALL, find, missing_reason

        found = find(self.library)
        if found is None:
            return Availability(False, False, missing_reason(self.library), INSTALL)
        versions: dict[str, str] = {found.library: found.version}
        if not found.can_run:
            return Availability(True, False, NO_GPU, "an NVIDIA GPU and its driver", versions)
        return Availability(True, True, versions=versions)

    def prepare(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """Ask for dense weights, quantisation in TensorRT's terms, and a 16-bit graph where one is wanted.

        What the profile fixes at one size, and `values`, go into the graph, so that branches on them are decided
        before TensorRT sees them. The interface stays float32. Each pass leaves a graph alone that has nothing for it
        to do.
        """
        from mopt.runtime.trt.library import find

        fixed = {key: sizes[0] for key, sizes in self.profile.items() if len(set(sizes)) == 1}
        bound: tuple[tuple[str, Mapping[str, Any]], ...] = ()
        if fixed or self.values:
            bound = (("convert.bind", {"sizes": fixed, "values": dict(self.values)}), ("simplify.rules", {}))
        # Quantised rows are lowered before a fixed look-up in them is folded: TensorRT takes no bare int8 constant.
        found = find(self.library)
        kernels = "tensorrt" if found is None else found.library
        lowered = (("cluster.expand", {}), ("convert.tensorrt", {"kernels": kernels, "grids": self.grids}), *bound)
        halves = {"fp16": "convert.float16", "bf16": "convert.bfloat16"}
        return (*lowered, (halves[self.precision], {"scales": True})) if self.precision in halves else lowered

    def emit(self, module: Module, folder: Path, sizes: Sizes | None = None) -> Artifact:
        """Build the engine, or with `partition` the engines and ONNX files that the graph is cut into."""
        from mopt.runtime.emission import artifact
        from mopt.runtime.trt.division import build_parts
        from mopt.runtime.trt.engine import Settings, build_engine
        from mopt.runtime.trt.library import INSTALL, find, missing_reason
        from mopt.runtime.trt.refusal import RefusedError
        from mopt.runtime.trt.shapes import plans

        found = find(self.library)
        if found is None:
            raise TargetError(missing_reason(self.library), missing=True, help=INSTALL)
        if not self.capabilities:
            raise TargetError("`capabilities` is empty: name at least one, for example `sm89`")
        old = [name for name in self.capabilities if int(name[2:]) < _FLOAT8]
        if self.grids == "e4m3" and old and found.library == "tensorrt_rtx":
            raise TargetError(
                f"`grids=e4m3` runs on GPUs from sm{_FLOAT8} on, and `capabilities` names {', '.join(old)}",
                help=f"name later ones alone, for example `capabilities=[sm{_FLOAT8}, sm120]`",
            )
        settings = Settings(
            self.capabilities, int(self.workspace), self.level, self.tf32, self.timing_cache, self.refit,
            self.version_compatible, self.hardware, self.values,
        )  # fmt: skip
        profiles = plans(module, self.profile, sizes or Sizes())
        try:
            files, notes = build_engine(module, found, settings, profiles, folder)
        except RefusedError as refused:
            if not self.partition:
                raise
            files, notes = build_parts(module, found, settings, profiles, folder, refused)
        weighed = [file for file in files if file.suffix in (".engine", ".onnx", ".data")]
        return artifact(files[0], files, [*notes, *([] if found.can_run else [NO_GPU])], weighed=weighed)

    def open(self, artifact: Artifact) -> Runner:
        """Load the engine onto the GPU of this machine."""
        from mopt.runtime.gpu import no_gpu
        from mopt.runtime.trt.library import INSTALL, find, missing_reason

        found = find(self.library)
        if found is None:
            raise TargetError(missing_reason(self.library), missing=True, help=INSTALL)
        if not found.can_run:
            why = no_gpu()
            told = f"an engine needs an NVIDIA GPU to run{f': {why.reason}' if why else ''}"
            raise TargetError(told, missing=True, help="copy the engine to a machine with its GPU")
        from mopt.runtime.trt.parts import MANIFEST, PartsRunner, open_with
        from mopt.runtime.trt.runner import TrtRunner

        if artifact.path.name == MANIFEST:
            return PartsRunner(artifact.path, open_with(found.library))
        return TrtRunner(artifact.path, found.library)
