"""Calibration: the float model run over samples, what its tensors held kept as histograms of fixed size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Context, PassError
from mopt.passes.quantize.calibration_histogram import Histogram
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.data.sample_fit import SampleFit, feeds_of
from mopt.runtime.data.splits import fit_to, split_name
from mopt.runtime.ort import OrtRunner

if TYPE_CHECKING:
    from mopt.runtime.contract import Split
    from mopt.values import DataRef


@dataclass(frozen=True)
class Calibration:
    """What was seen of a model's tensors.

    Attributes:
        tensors: a histogram for each observed value, by name.
        shapes: the shape each had in the first run.
        samples: how many samples were run.
    """

    tensors: Mapping[str, Histogram]
    shapes: Mapping[str, tuple[int, ...]]
    samples: int


def open_split(module: Module, reference: DataRef, context: Context) -> Split:
    """Return calibration samples, fitted to the module's inputs.

    Raises:
        PassError: there are none.
    """
    split = context.split(reference)
    if not len(split):
        raise PassError(f"`{reference}` has no samples to calibrate with", help="give a split that has some")
    return fit_to(split, SampleFit.of_module(module, split_name(split)))


def calibrate(
    module: Module, values: Mapping[str, int | None], split: Split, context: Context, *, batch: int, bins: bool
) -> Calibration:
    """Run `module` over a split once, and count what the named values hold.

    Args:
        values: names of float values of the main graph, each with its channel axis where channel means are wanted.
        bins: keep histograms, not least and greatest elements only.

    Raises:
        PassError: a value was NaN or infinite (the first node in graph order that made one is named), the model does
            not run, or the data gave no sample.
    """
    watched = with_outputs(module, list(values))
    found = {name: Histogram(axis, bins=bins) for name, axis in values.items()}
    shapes: dict[str, tuple[int, ...]] = {}
    done = 0
    inputs = tuple(module.inputs)
    asked = [value.name for value in watched.graph.outputs if value.name in found]
    with _runner(watched) as runner, context.progress("calibrate", len(split)) as progress:
        for stacked in split.batches(batch):
            feeds = feeds_of(stacked, inputs)
            count = len(next(iter(stacked.values())))
            faults: dict[str, str] = {}
            given = ((name, array) for name, array in feeds.items() if name in found)
            try:
                # One value at a time: all of them together are many times what the model itself takes.
                for name, array in itertools.chain(given, runner.run_one_by_one(feeds, asked)):
                    if array.dtype == np.float32:
                        shapes.setdefault(name, array.shape)
                        if fault := _fault(array):
                            faults[name] = fault
                        elif not faults:
                            found[name].add(array)
            except RunError as error:
                raise PassError(f"the model does not run on calibration sample {done}: {error}") from error
            if faults:
                _refuse(module, next(name for name in found if name in faults), faults, done)
            done += count
            progress.advance(count)
    if not done:
        raise PassError("the calibration data gave no sample", help="its length says otherwise; look at its iterator")
    return Calibration(found, shapes, done)


def stream(
    module: Module,
    names: Sequence[str],
    split: Split,
    context: Context,
    *,
    label: str,
    visit: Callable[[str, np.ndarray[Any, Any]], None],
) -> None:
    """Run `module` over a split that calibrated it already; hand over the named values one after the other.

    Raises:
        PassError: the model does not run.
    """
    watched = with_outputs(module, names)
    inputs = tuple(module.inputs)
    asked = [value.name for value in watched.graph.outputs if value.name and value.name in names]
    with _runner(watched) as runner, context.progress(label, len(split)) as progress:
        for stacked in split.batches(1):
            feeds = feeds_of(stacked, inputs)
            given = ((name, array) for name, array in feeds.items() if name in names)
            try:
                for name, array in itertools.chain(given, runner.run_one_by_one(feeds, asked)):
                    visit(name, array)
            except RunError as error:
                raise PassError(f"the model does not run on a calibration sample: {error}") from error
            progress.advance()


def _fault(array: np.ndarray[Any, Any]) -> str:
    """Say what keeps a tensor from having a range; empty where nothing does."""
    flat = array.reshape(-1)
    if not array.size or np.isfinite(np.dot(flat, flat)):
        return ""
    if np.isfinite(flat).all():
        return ""  # only the squares were too large
    return "NaN" if np.isnan(flat).any() else "infinite values"


def _refuse(module: Module, name: str, faults: Mapping[str, str], sample: int) -> None:
    what = faults[name]
    node = next((node for node in module.nodes() if any(out.name == name for out in node.outputs)), None)
    where = f"node `{node.name}` ({node.op_type}) gives" if node is not None else f"input `{name}` holds"
    raise PassError(
        f"{where} {what} on calibration sample {sample}" + (f" (value `{name}`)" if node is not None else ""),
        node=None if node is None else node.name,
        help="mend the samples or the model: a tensor without a range has no grid",
    )


def _runner(module: Module) -> OrtRunner:
    try:
        return OrtRunner(module, patterns=False)
    except TargetError as error:
        raise PassError(f"the model can't be calibrated: {error}") from error


def with_outputs(module: Module, names: Sequence[str]) -> Module:
    """Return a copy that also gives the named values as outputs."""
    copy = module.clone()
    present = {value.name for value in copy.graph.outputs} | {value.name for value in copy.graph.inputs}
    by_name = {value.name: value for node in copy.graph for value in node.outputs}
    for name in names:
        if name not in present:
            value = by_name[name]
            value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
            copy.graph.outputs.append(value)
    return copy
