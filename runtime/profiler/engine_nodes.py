"""Time by layer of a TensorRT engine and by source layer, from TensorRT's own profiler.

The file beside an engine says which nodes and source layers stand behind each of its layers
(`mopt.runtime.trt.layers`). The profiler waits after every layer: shares say where time goes, the engine's own time is
measured without it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import TargetError
from mopt.runtime.profiler.nodes import NodeProfile, OperatorTime

if TYPE_CHECKING:
    import numpy as np

PROVIDER: Final = "TensorRT"


def engine_times(
    engine: Path,
    library: str,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    *,
    runs: int = 20,
    warmup: int = 3,
    runner: Any = None,
) -> NodeProfile:
    """Run an engine under TensorRT's profiler.

    Args:
        engine: its file, with `model.engine.layers.json` beside it; without, layers go by TensorRT's names.
        library: what loads it (`tensorrt`, `tensorrt_rtx`).
        feeds: its inputs.
        runs: runs that count; `warmup` runs before them do not.
        runner: a loaded engine; by default one is loaded for this, since the profiler stays on.

    Raises:
        TargetError: it can't be loaded here.
        RunError: it does not take the inputs.
    """
    from mopt.runtime.trt.runner import TrtRunner

    opened = runner or TrtRunner(engine, library)
    try:
        found = opened.layer_times(feeds, warmup + runs)
    finally:
        if runner is None:
            opened.close()
    known = _layers(engine)
    medians = {name: statistics.median(times[warmup:] or times) for name, times in found.items()}
    total = sum(medians.values())
    times = []
    for name, seconds in medians.items():
        layer = known.get(name)
        kind, nodes, layers = (layer.kind, layer.nodes, layer.layers) if layer else (name, (), ())
        times.append(OperatorTime(kind, PROVIDER, seconds, seconds / total if total else 0.0, nodes, layers))
    return NodeProfile(total, tuple(sorted(times, key=lambda time: (-time.seconds, time.operator, time.nodes))), 0)


def _layers(engine: Path) -> dict[str, Any]:
    from mopt.runtime.gpu import gpus
    from mopt.runtime.trt.layers import read_layers

    try:
        by_capability = read_layers(engine)
    except TargetError:
        return {}
    here = [f"sm{gpu.capability[0]}{gpu.capability[1]}" for gpu in gpus()[:1]]
    chosen = next((by_capability[name] for name in (*here, *by_capability) if name in by_capability), [])
    return {layer.name: layer for layer in chosen}
