"""Build one TensorRT engine. Run as a program in a process of its own: `python -m mopt.runtime.trt.build`.

It works in the current folder: reads `request.json` and the ONNX file it names, writes `model.engine` and
`answer.json`. A native crash ends this process only, and whoever started it reports the signal.

The builder orders its kernels by the addresses of its own objects, so two builds of one network differ unless
addresses repeat: this process turns address randomisation off for itself (where the system lets it) and uses one
thread. Measured with tensorrt_rtx 1.7: no two builds of a recogniser are equal without that, four of five are with
it on a busy machine (the library keeps threads of its own, whose timing still shows now and then).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

_NO_RANDOMISATION: Final = 0x0040000
_MARK: Final = "MOPT_TRT_BUILD"
_READ_ONLY: Final = 0xFFFFFFFF


def main() -> int:
    """Answer the request in the current folder. The exit status is 0 whenever `answer.json` says what happened."""
    fixed = _fix_addresses()
    request = json.loads(Path("request.json").read_text(encoding="utf-8"))
    answer = _build(request)
    answer["fixed_addresses"] = fixed
    Path("answer.json").write_text(json.dumps(answer), encoding="utf-8")
    return 0


def _fix_addresses() -> bool:
    """Start this process again without address randomisation; say whether it runs without."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    current = libc.personality(ctypes.c_ulong(_READ_ONLY))
    if current != -1 and current & _NO_RANDOMISATION:
        return True
    if os.environ.get(_MARK) == "again" or current == -1:
        return False
    if libc.personality(ctypes.c_ulong(current | _NO_RANDOMISATION)) != -1:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, _MARK: "again"})
    return False


def _build(request: dict[str, Any]) -> dict[str, Any]:
    """Build and return the answer: `ok` with facts of the network, or the `errors` with the nodes they name."""
    import importlib

    trt = importlib.import_module(request["library"])

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps errors, and what the builder says of the layers it chose: a list for each capability."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: list[list[str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message)
            elif message.startswith("Layers:"):
                self.layers.append(message.splitlines()[1:])

    log = Log()
    builder = trt.Builder(log)
    builder.max_threads = 1
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):  # the only kind there is in later versions
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["model"]):
        return {"ok": False, "stage": "parse", "errors": _parser_errors(parser), "library_version": trt.__version__}
    facts = {"library_version": trt.__version__, "layers": network.num_layers, "inputs": [], "outputs": []}
    for kind, count, get in (
        ("inputs", network.num_inputs, network.get_input),
        ("outputs", network.num_outputs, network.get_output),
    ):
        for index in range(count):
            tensor = get(index)
            facts[kind].append({"name": tensor.name, "dtype": tensor.dtype.name, "shape": list(tensor.shape)})
    failures: list[dict[str, Any]] = []
    deciding = [tensor["name"] for at, tensor in enumerate(facts["inputs"]) if network.get_input(at).is_shape_tensor]
    if deciding:
        told = "it decides shapes inside the network; give it one value by `values={…}`"
        errors = [{"node": "", "operator": "", "input": name, "message": told} for name in deciding]
        return {"ok": False, "stage": "build", "errors": errors, **facts}
    warnings: list[str] = []
    for number, shapes in enumerate(request["profiles"]):
        log.errors.clear()
        log.layers.clear()
        config = _config(trt, builder, network, request, shapes)
        cache = Path("timing.cache")
        if cache.exists():
            kept = _timings(config, cache.read_bytes(), warnings)
        engine = builder.build_serialized_network(network, config)
        if engine is not None:
            if cache.exists():
                cache.write_bytes(memoryview(kept.serialize()))
            with Path("model.engine").open("wb") as stream:
                stream.write(memoryview(engine))
            return {
                "ok": True,
                "profile": number,
                "refused": failures,
                "layer_lists": log.layers,
                "warnings": warnings,
                **facts,
            }
        failures.append({"node": "", "operator": "", "message": "\n".join(dict.fromkeys(log.errors))})
    return {"ok": False, "stage": "build", "errors": failures, **facts}


def _config(trt: Any, builder: Any, network: Any, request: dict[str, Any], shapes: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    if request["workspace"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace"])
    config.builder_optimization_level = request["level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names of nodes in the engine and in the log
    if not request["timing_cache"] and hasattr(trt.BuilderFlag, "DISABLE_TIMING_CACHE"):
        config.set_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)
    if request["refit"]:
        config.set_flag(trt.BuilderFlag.REFIT)
    if request["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if request["hardware"] != "none":
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, request["hardware"].upper())
    if not request["tf32"] and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if request["capabilities"] and hasattr(config, "num_compute_capabilities"):
        config.num_compute_capabilities = len(request["capabilities"])
        for index, name in enumerate(request["capabilities"]):
            config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)
    if shapes:
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if tensor.name not in shapes:
                continue
            profile.set_shape(tensor.name, *shapes[tensor.name])
        config.add_optimization_profile(profile)
    return config


def _timings(config: Any, stored: bytes, warnings: list[str]) -> Any:
    """Give the builder the timings of earlier builds, or none where it does not take them; return its cache."""
    kept = config.create_timing_cache(stored)
    if kept is None or not config.set_timing_cache(kept, False):
        warnings.append("the timing cache is of another GPU or version and is made anew")
        kept = config.create_timing_cache(b"")
        config.set_timing_cache(kept, False)
    return kept


def _parser_errors(parser: Any) -> list[dict[str, Any]]:
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        found.append({"node": error.node_name(), "operator": error.node_operator(), "message": error.desc()})
    return found


if __name__ == "__main__":
    sys.exit(main())
