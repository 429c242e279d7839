"""What speed-ups on a GPU refer to: float16, which every GPU since Volta runs for the asking, not float32."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from mopt.driver.candidates import Candidate, of_graph

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.runtime.ort_options import GpuOptions

_WORDS: Final = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "int8"}


def precision_of(module: Module) -> str:
    """Return the element type that most bytes of a module's weights have: `float32`, `float16`, `int8` …"""
    sizes: Counter[str] = Counter()
    for weight in module.weights():
        sizes[str(weight.dtype)] += weight.tensor.nbytes
    kind = max(sorted(sizes), key=lambda name: sizes[name]) if sizes else "f32"
    return _WORDS.get(kind, kind)


def with_half_baseline(
    chosen: list[Candidate], provider: Any, threads: int, gpu: GpuOptions | None = None
) -> tuple[list[Candidate], str]:
    """Return the candidates, the baseline first, and what the baseline is, in words.

    On a GPU a baseline in float32 is put into float16 (`convert.float16`) and stands before the others, the model
    itself included. An engine, a quantised graph and a framework's model are what they are; the last runs in float16
    there anyway.

    Args:
        chosen: what the command line names; the first is the baseline.
        provider, threads, gpu: for onnxruntime.
    """
    first = chosen[0]
    if first.module is None:
        return chosen, f"{first.name}, {first.precision or 'as it was built'}"
    kind = precision_of(first.module)
    if provider == "cpu" or kind != "float32":
        return chosen, f"{first.name}, {kind}"
    halved, why_not = _halved(first.module)
    if halved is None:
        return chosen, f"{first.name}, float32: it can't be put into float16 ({why_not})"
    name = f"{first.name} in float16"
    return [replace(of_graph(halved, name, provider, threads, gpu), precision="float16"), *chosen], name


def _halved(module: Module) -> tuple[Module | None, str]:
    from mopt.passes.contract import PassError
    from mopt.passes.convert.float16 import SENSITIVE
    from mopt.passes.convert.half_run import convert
    from mopt.passes.convert.half_types import FLOAT16

    try:
        # Nothing of a step's context is asked for: no scales are converted.
        none = cast(Any, None)
        result = convert(module.clone(), none, FLOAT16, SENSITIVE, (), half_interface=False, scales=False)
    except PassError as error:
        return None, str(error)
    if not result.modified:
        return None, "no operator of it takes float16"
    result.module.let_go()
    return result.module, ""
