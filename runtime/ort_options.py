"""The options of onnxruntime's GPU providers that matter, in its words.

Precision is none of them: float16 and int8 are decided in the graph, never by a builder's flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mopt.runtime.ort_provider import Provider


@dataclass(frozen=True)
class GpuOptions:
    """How a GPU provider works.

    Attributes:
        cuda_graph: record all kernels of a run once and launch them as one; sizes and addresses are fixed then.
        tf32: let float32 products round to TF32 (10 bits of mantissa).
        layout: of convolutions; `nhwc` suits tensor cores, and costs transpositions at its borders.
        search: how cuDNN's algorithm for a convolution is chosen; `exhaustive` tries all at the first run.
        memory: most bytes of the arena (and of a TensorRT layer's workspace); 0: no limit.
        cache: folder in which TensorRT keeps engines and timings between sessions; empty: none.
        extra: further options of the provider, in onnxruntime's words; they win.
    """

    cuda_graph: bool = False
    tf32: bool = False
    layout: Literal["nchw", "nhwc"] = "nchw"
    search: Literal["exhaustive", "heuristic", "default"] = "exhaustive"
    memory: int = 0
    cache: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    def settings(self, provider: Provider, stream: int = 0) -> dict[str, dict[str, str]]:
        """Return options by provider.

        Args:
            provider: the one that is asked for; it gets `extra`.
            stream: the CUDA stream to run in, so that events can be put around a run; 0: onnxruntime's own.
        """
        if provider == "cpu":
            return {"cpu": dict(self.extra)}
        cuda = {
            "use_tf32": _flag(self.tf32),
            "prefer_nhwc": _flag(self.layout == "nhwc"),
            "cudnn_conv_algo_search": self.search.upper(),
            "cudnn_conv_use_max_workspace": "1",
        }
        tensorrt: dict[str, str] = {}
        if self.memory:
            cuda["gpu_mem_limit"] = tensorrt["trt_max_workspace_size"] = str(self.memory)
        if self.cache:
            tensorrt |= {
                "trt_engine_cache_enable": "1", "trt_engine_cache_path": self.cache,
                "trt_timing_cache_enable": "1", "trt_timing_cache_path": self.cache,
            }  # fmt: skip
        if stream:
            cuda["user_compute_stream"] = tensorrt["user_compute_stream"] = str(stream)
        if self.cuda_graph:
            (cuda if provider == "cuda" else tensorrt).update(
                {"enable_cuda_graph" if provider == "cuda" else "trt_cuda_graph_enable": "1"}
            )
        found = {"cuda": cuda, "tensorrt": tensorrt} if provider == "tensorrt" else {"cuda": cuda}
        found[provider].update(self.extra)
        return found


def _flag(value: bool) -> str:
    return "1" if value else "0"
