"""New weights for a built engine: no building again where only the numbers of a model changed.

It takes the GPU the engine is for, an engine built with `trt(refit=true)`, and a model of the same graph.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.runtime.contract import TargetError
from mopt.runtime.trt.engine import digest
from mopt.runtime.trt.opening import engine_facts
from mopt.runtime.trt.refusal import readable
from mopt.runtime.trt.runner import TrtRunner

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.trt.cuda_driver import CudaDriver


def refit(
    engine: Path, module: Module, target: Path, library: str, *, driver: CudaDriver | None = None, trt: Any = None
) -> Path:
    """Write an engine with the weights of a module; what describes it goes beside it.

    Args:
        engine: built with `refit`, its description beside it.
        module: the same graph as the engine was built from (prepared in the same way), with other weights.
        target: the file to write.
        library: the one the engine was built by.
        driver, trt: the CUDA driver and the library; this machine's by default.

    Raises:
        TargetError: the engine can't be loaded here, was not built for this, or the module is another graph.
    """
    from mopt.ir import to_proto

    facts = engine_facts(engine)
    if not facts.get("settings", {}).get("refit"):
        raise TargetError(f"{engine.name} was not built to be refitted", help="build it with `trt(refit=true)`")
    runner = TrtRunner(engine, library, driver=driver, trt=trt)
    try:
        data = runner.refitted(to_proto(module).SerializeToString())
    finally:
        runner.close()
    partial = target.with_suffix(".part")
    partial.write_bytes(data)
    partial.replace(target)
    facts["engine"] = {"sha256": digest([target]), "bytes": len(data)}
    facts["refitted"] = True
    target.with_name(f"{target.name}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return target


def refit_weights(trt: Any, engine: Any, log: Any, model: bytes) -> bytes:
    """Put the weights of an ONNX model into a loaded engine and return it serialised.

    Raises:
        TargetError: weights are missing or of other shapes.
    """
    refitter = trt.Refitter(engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_bytes(model):
        said = "; ".join(readable(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise TargetError(f"the model's weights are not those of the engine: {said or readable(log.last)}")
    missing = list(refitter.get_missing_weights())
    if missing:
        raise TargetError(
            f"the model has no weights for {', '.join(f'`{name}`' for name in missing[:5])} of the engine"
        )
    if not refitter.refit_cuda_engine():
        raise TargetError(f"the engine takes no new weights: {readable(log.last)}")
    return bytes(memoryview(engine.serialize()))
