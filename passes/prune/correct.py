"""Making up for what was cut: layers refitted, on calibration samples, to give what the original model gave.

Layer by layer in the order of the graph, on what the smaller model really hands each of them (its earlier layers being
corrected already), so that errors do not add up (asymmetric reconstruction; Zhang et al. 2016, arXiv:1505.06798; He et
al. 2017, Channel Pruning, arXiv:1707.06168). A layer whose result is added to something is fitted to the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling.linear import GATES
from mopt.ir import Module, TensorInfo
from mopt.ir.walk import captures
from mopt.passes.contract import Context, Note, PassError
from mopt.passes.prune.correct_depthwise import Separate, depthwise
from mopt.passes.prune.correct_layers import Kept, Layer, product
from mopt.passes.prune.correct_norms import Norm, norm
from mopt.passes.prune.correct_recurrent import directions
from mopt.passes.prune.correct_solve import Fit, Regression
from mopt.rewrite.constants import stored_tensor
from mopt.rewrite.surgery import drop_dead, drop_unused_initializers
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.data.sample_fit import feeds_of
from mopt.runtime.ort import OrtRunner
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.runtime.contract import Split

_BATCHES = 8
_BATCH = 8
"""Samples in one run: so many, or as few as make so many batches, since of every four batches one is held out."""
_ROWS = 4096
_ROWS_A_FEATURE = 6
"""Rows of a regression: at least the former, and the latter times the number of its features."""


@dataclass
class _Stage:
    """Layers that do not depend on each other's correction."""

    layers: list[Layer] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)


def correct(
    smaller: Module, original: Module, kept: Kept, split: Split, context: Context, *, kernels: bool
) -> list[Note]:
    """Refit the smaller model's layers, in place.

    Args:
        smaller, original: the model after and before cutting, with the same names.
        kept: what stayed of the original's values, by name.
        split: calibration samples, fitted to the model's inputs.
        kernels: fit kernels and biases; otherwise biases only.

    Raises:
        PassError: the model does not run on a sample, or gives NaN or infinities.
    """
    stages = _stages(smaller, original, kept)
    fits: list[Fit] = []
    moved = 0
    with context.progress("correct", len(stages)) as progress:
        for number, stage in enumerate(stages):
            random = np.random.default_rng([context.seed, number])
            fits += _fit(stage, smaller, original, split, random, kernels=kernels)
            moved += sum(one.change() for one in stage.norms)
            progress.advance()
    smaller.touch()
    notes = []
    if fits:
        before, after = (_error(fits, name) for name in ("before", "after"))
        changed = sum(fit.after < fit.before for fit in fits)
        notes.append(
            Note(
                f"{changed} of {len(fits)} layers corrected on {len(split)} samples: error of their outputs relative "
                f"to the model before, in the median, {before:.1%} before and {after:.1%} after, on samples held out"
            )
        )
    if moved:
        notes.append(Note(f"statistics of {moved} batch normalisations moved"))
    return notes or [Note("no layer here reads what was cut: nothing was corrected")]


def _error(fits: Sequence[Fit], which: str) -> float:
    shares = [getattr(fit, which) / fit.energy for fit in fits if fit.energy > 0]
    return float(np.median(np.sqrt(np.maximum(shares, 0)))) if shares else 0.0


def _stages(smaller: Module, original: Module, kept: Kept) -> list[_Stage]:
    """Put what can be corrected into an order in which each layer finds its inputs corrected."""
    weights = {weight.value: weight for weight in smaller.weights()}
    twins = {node.name: node for node in original.graph}
    level: dict[ir.Value, int] = dict.fromkeys(smaller.graph.inputs, 0)
    stale: set[ir.Value] = set()
    stages: list[_Stage] = []

    def stage(number: int) -> _Stage:
        while len(stages) < number:
            stages.append(_Stage())
        return stages[number - 1]

    for node in smaller.graph:
        read = [value for value in (*node.inputs, *captures(node)) if value is not None]
        reached = max((level.get(value, 0) for value in read), default=0)
        changed = [value for value in read if stored_tensor(value) is None and (value in stale or value.name in kept)]
        own = node.op_type in GATES and any(output.name in kept for output in node.outputs)
        if changed or own:
            stale.update(node.outputs)
            target, others = _target(node, level)
            deep = max([reached, *(level[value] for value in others)]) + 1
            layers: list[Layer] = list(directions(node, weights, original, twins.get(node.name), kept))
            for form in (product, depthwise):
                if (found := form(smaller, node, weights, target, kept)) is not None:
                    layers = [found]
            moved = norm(node, weights, kept)
            if layers:
                stage(deep).layers += layers
            if moved is not None:
                stage(deep).norms.append(moved)
            reached = deep if layers or moved is not None else reached
        for output in node.outputs:
            level[output] = reached
    return [one for one in stages if one.layers or one.norms]


def _target(node: ir.Node, level: Mapping[ir.Value, int]) -> tuple[str, list[ir.Value]]:
    """Return the last of the sums that a layer's result goes into alone, and what else they add."""
    value, others = node.outputs[0], []
    while len(uses := list(value.uses())) == 1 and not value.is_graph_output():
        add, other = uses[0].node, uses[0].node.inputs[1 - uses[0].idx] if uses[0].node.op_type == "Add" else None
        if add.domain != "" or other is None or not _alike(value, add.outputs[0]):
            break
        if stored_tensor(other) is None:
            if other not in level:  # corrected later: it will be fitted to the sum itself
                break
            others.append(other)
        value = add.outputs[0]
    return value.name or "", others


def _alike(one: ir.Value, other: ir.Value) -> bool:
    return one.shape is not None and other.shape is not None and list(one.shape) == list(other.shape)


def _fit(
    stage: _Stage, smaller: Module, original: Module, split: Split, random: np.random.Generator, *, kernels: bool
) -> list[Fit]:
    now = [name for layer in stage.layers for name in layer.smaller] + [one.data for one in stage.norms]
    then = [name for layer in stage.layers for name in layer.original] + [one.data for one in stage.norms]
    sums: list[Regression | Separate | None] = [None] * len(stage.layers)
    inputs, done = tuple(smaller.inputs), 0
    with _watch(smaller, now) as runner, _watch(original, then) as reference:
        for number, stacked in enumerate(split.batches(_batch(split, inputs))):
            feeds = feeds_of(stacked, inputs)
            count = len(next(iter(stacked.values())))
            after, before = _run(runner, feeds, done), _run(reference, feeds, done)
            for index, layer in enumerate(stage.layers):
                most = max(_ROWS, _ROWS_A_FEATURE * layer.features) * count // len(split) + 1
                rows = layer.rows(after, before, most, random)
                if not (np.isfinite(rows.missing).all() and np.isfinite(rows.x).all()):
                    raise PassError(
                        f"layer `{layer.name}` is given NaN or infinite values on calibration sample {done}",
                        node=layer.name,
                        help="mend the samples or the model, or leave `data` out",
                    )
                made = sums[index]
                if made is None:
                    # A depthwise layer's rows have features of their own for each channel.
                    form = Separate if rows.x.ndim == 3 else Regression
                    made = sums[index] = form(layer.features, rows.missing.shape[1], kernel=kernels)
                made.add(rows.x, rows.missing, rows.wanted, held_out=number % 4 == 3)
            for one in stage.norms:
                one.add(after, before)
            done += count
    fits = []
    for layer, made in zip(stage.layers, sums, strict=True):
        if made is not None:
            fit = made.fit()
            layer.change(fit.kernel, fit.bias)
            fits.append(fit)
    return fits


def _batch(split: Split, inputs: Sequence[TensorInfo]) -> int:
    first = next(iter(split))
    if any(np.ndim(first[port.name]) == len(port.shape) for port in inputs):
        return 1  # samples that have all of the input's axes are run as they are
    return max(1, min(_BATCH, len(split) // _BATCHES))


def _run(runner: OrtRunner | None, feeds: Mapping[str, NDArray[Any]], sample: int) -> dict[str, NDArray[Any]]:
    try:
        return {**feeds, **(runner.run(feeds) if runner is not None else {})}
    except RunError as error:
        raise PassError(f"the model does not run on calibration sample {sample}: {error}") from error


def _watch(module: Module, names: Sequence[str]) -> AbstractContextManager[OrtRunner | None]:
    """Open a runner of the part of a module that makes the named values; None where they are inputs themselves."""
    copy = module.clone()
    graph = copy.graph
    by_name = {value.name: value for node in graph for value in node.outputs}
    graph.outputs.clear()
    for name in dict.fromkeys(names):
        if name in by_name:
            value = by_name[name]
            value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
            graph.outputs.append(value)
    if not graph.outputs:
        return nullcontext(None)
    list(drop_dead(reversed(list(graph))))
    drop_unused_initializers(graph)
    try:
        return OrtRunner(copy)
    except TargetError as error:
        raise PassError(f"the model can't be run for a correction: {error}") from error
