"""Trying an opaque tool on a module: its answer is taken only if it is smaller, valid and equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mopt.ir import Module
from mopt.passes.simplify.tools.exchange import Parcel
from mopt.passes.simplify.tools.process import ToolError, tool_process

EQUIVALENCE: Final = 1e-4
"""The largest relative error of the outputs that is taken for equal."""
_NOISE: Final = 4.0
"""How many times the error that onnxruntime's own optimisations make on the original is taken for equal, too."""
NODE_LIMIT: Final = 100_000
"""Nodes above which the opaque tools are not tried: their time is not linear."""


@dataclass
class Trial:
    """One tool at work on one module."""

    tool: str
    parcel: Parcel
    module: Module
    problem: str = ""


def start(tool: str, module: Module, parcel: Parcel, names: Sequence[str] = ()) -> Trial:
    """Send a packed module to a tool and return at once."""
    trial = Trial(tool, parcel, module)
    try:
        tool_process(tool).send(trial.parcel.data, names)
    except ToolError as error:
        trial.problem = str(error)
    return trial


def answer(trial: Trial, timeout: float) -> bytes:
    """Wait for what the tool made of the module.

    Raises:
        ToolError: it failed, crashed or took too long.
    """
    if trial.problem:
        raise ToolError(trial.problem)
    return tool_process(trial.tool).receive(timeout)


def node_count(module: Module) -> int:
    """Count the nodes of all graphs, without constants (`Constant`)."""
    return sum(node.op_type != "Constant" for node in module.nodes())


def weight_bytes(module: Module) -> int:
    """Add up the bytes of all constants."""
    return sum(weight.nbytes for weight in module.weights())


def same_outputs(before: Module, after: Module, *, seed: int, bindings: Mapping[str, int] | None) -> str:
    """Return why two modules' outputs differ on seeded inputs, or an empty string where they are equal.

    Where an output is saturated (a sigmoid near 0 everywhere), rounding alone makes large relative errors: what
    onnxruntime's own optimisations do to the original is the measure then.
    """
    from mopt.runtime.compare import compare_modules, drift, worst_of
    from mopt.runtime.contract import RunError, TargetError
    from mopt.runtime.inputs import binding_sets, seeded_inputs
    from mopt.runtime.ort import OrtRunner

    try:
        sets = [dict(bindings)] if bindings else binding_sets(before)
        found = compare_modules(before, after, seed=seed, bindings=sets)
        if found.within(EQUIVALENCE):
            return ""
        if found.problem:
            return found.problem
        feeds = [seeded_inputs(before, sizes, seed) for sizes in sets]
        with OrtRunner(before) as fast, OrtRunner(before, optimize=False) as plain:
            noise = worst_of([drift(plain.run(given), fast.run(given)) for given in feeds])
        if found.within(_NOISE * noise.max_rel):
            return ""
        return f"its outputs differ: {found}"
    except (RunError, TargetError) as error:
        return str(error)
