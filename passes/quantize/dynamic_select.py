"""Which operators dynamic quantisation pays for: by a table that is the same everywhere, or measured here.

What is measured differs from run to run, and most on a busy machine; what pays should not. A measured operator is
decided by its own time only where that is clear: where the whole interval of its share of the float time lies below
`PAYS` it is quantised, above `COSTS` it is not. Noise widens the interval, and then, as wherever nothing was measured,
the table decides: a busy machine chooses what the table does, not something else each time. Sizes come from one run of
the model on seeded inputs, with the sizes that the recipe binds; equal operators on equal sizes are measured once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassError
from mopt.passes.quantize import dynamic_table, dynamic_timing
from mopt.passes.quantize.dynamic_operators import Limits, constant
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import Ratio

if TYPE_CHECKING:
    from mopt.passes.quantize.dynamic import Dynamic

PAYS: Final = 0.85
COSTS: Final = 1.15
JUDGED: Final = ("Conv", "Gemm", "LSTM", "MatMul")


@dataclass(frozen=True)
class Verdict:
    """Whether an operator is quantised, the share of the float time it then takes, and how that is known."""

    pays: bool
    share: float
    how: str

    @property
    def reason(self) -> str:
        """Why it stays in float, without the figure."""
        return f"int8 would save no time ({self.how})"


def verdicts(
    module: Module, nodes: Sequence[ir.Node], options: Dynamic, limits: Limits, context: Context
) -> dict[ir.Node, Verdict]:
    """Return a verdict for each of `nodes` that is of the main graph, and a constant weight's reader.

    Raises:
        PassError: the model does not run on seeded inputs.
    """
    outer = set(module.graph)
    judged = [node for node in nodes if node in outer and node.op_type in JUDGED and _is_float(node, limits)]
    shapes = _shapes(
        module, [value for node in judged for value in (node.inputs[0], node.outputs[0]) if value], context
    )
    found: dict[ir.Node, Verdict] = {}
    measured: dict[object, Ratio | None] = {}
    with context.progress("time operators", len(judged)) as progress:
        for node in judged:
            source = node.inputs[0]
            assert source is not None
            read, written = shapes.get(source.name or ""), shapes.get(node.outputs[0].name or "")
            progress.advance()
            if read is None or written is None:
                continue
            by_table = dynamic_table.ratio(node, read, written)
            if options.select == "table":
                found[node] = Verdict(by_table < 1, by_table, "by the table")
                continue
            key = _key(node, read)
            if key not in measured:
                measured[key] = dynamic_timing.ratio(node, read, module.opset, limits, signed=options.signed)
            here = measured[key]
            if here is None:
                continue
            clear = here.high < PAYS or here.low > COSTS
            how = "measured here" if clear else "measured as equal or not surely, by the table"
            found[node] = Verdict(here.value < 1 if clear else by_table < 1, here.value, how)
    return found


def chosen_note(found: Mapping[ir.Node, Verdict]) -> list[Note]:
    """Say what was chosen, with the figures it was chosen by, so that it can be written down as `skip`."""
    if not found:
        return []
    listed = ", ".join(f"{node.name} {verdict.share:.2f}" for node, verdict in found.items())
    pays = sum(verdict.pays for verdict in found.values())
    how = " and ".join(dict.fromkeys(verdict.how for verdict in found.values()))
    return [Note(f"{pays} of {len(found)} operators gain time in int8 ({how}); share of the float time: {listed}")]


def _is_float(node: ir.Node, limits: Limits) -> bool:
    """Say whether a node's weights are finite float32 constants that one scale a channel can hold."""
    arrays = [constant(node.inputs[index]) for index in ((1, 2) if node.op_type == "LSTM" else (1,))]
    return node.attributes.get_int("group", 1) == 1 and all(
        array is not None
        and array.dtype == np.float32
        and array.ndim > 1
        and array.size >= limits.min_elements
        and np.isfinite(array).all()
        for array in arrays
    )


def _key(node: ir.Node, read: tuple[int, ...]) -> object:
    weights = tuple(
        None if array is None else array.shape for array in (constant(value) for value in node.inputs[1:] if value)
    )
    attributes = tuple(sorted((name, str(held.value)) for name, held in node.attributes.items()))
    return node.op_type, read, weights, attributes


def _shapes(module: Module, values: Sequence[ir.Value], context: Context) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of values in one run."""
    copy = module.clone()
    present = {value.name for value in (*copy.graph.outputs, *copy.graph.inputs)}
    by_name = {value.name: value for node in copy.graph for value in node.outputs}
    for name in dict.fromkeys(value.name for value in values):
        if name not in present:
            by_name[name].type = by_name[name].type or ir.TensorType(ir.DataType.FLOAT)
            copy.graph.outputs.append(by_name[name])
    try:
        sizes = {**binding_sets(module)[0], **context.bindings}
        feeds = seeded_inputs(module, sizes, 0)
        wanted = [value.name or "" for value in copy.graph.outputs if value.name in {item.name for item in values}]
        found = {name: tuple(array.shape) for name, array in feeds.items()}
        with OrtRunner(copy, patterns=False) as runner:
            found.update((name, array.shape) for name, array in runner.run_one_by_one(feeds, wanted))
    except (RunError, TargetError) as error:
        raise PassError(
            f"`select` needs the sizes of one run, and the model does not run on seeded inputs: {error}",
            help="bind its dimensions (`profile(bind={…})`), or use `select=all`",
        ) from error
    return found
