"""What the inputs of weighted layers are like on calibration data: mean and mean square of every input channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Context, PassError
from mopt.runtime.contract import DataError, RunError, TargetError
from mopt.runtime.data.sample_fit import SampleFit, feeds_of
from mopt.runtime.data.splits import fit_to, split_name
from mopt.runtime.ort import OrtRunner
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.values import DataRef

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Of one value: the mean and the mean square of each channel, over samples and places; [C] each."""

    mean: Reals
    square: Reals


def moments(module: Module, axes: Mapping[str, int], data: DataRef, context: Context) -> dict[str, Moments]:
    """Return the moments of values of the main graph, streamed: one sample is in memory at a time.

    Args:
        axes: the values' names, and the axis of each that its channels run along.

    Raises:
        PassError: there are no samples, they do not fit the model, or a value is not finite on one.
    """
    split = context.split(data)
    if not len(split):
        raise PassError(f"`{data}` has no samples to calibrate with", help="give a split that has some")
    watched = module.clone()
    inputs, present = tuple(module.inputs), {value.name for value in watched.graph.outputs}
    made = {value.name: value for node in watched.graph for value in node.outputs}
    for name in axes:
        if name in made and name not in present:
            made[name].type = made[name].type or ir.TensorType(ir.DataType.FLOAT)
            watched.graph.outputs.append(made[name])
    sums: dict[str, list[Reals]] = {}
    counts: dict[str, int] = {}
    try:
        fitted, runner = fit_to(split, SampleFit.of_module(module, split_name(split))), OrtRunner(watched)
        with context.progress("calibrate", len(split)) as progress:
            for sample in fitted.batches(1):
                feeds = feeds_of(sample, inputs)
                results = {**feeds, **runner.run(feeds)}
                for name, axis in axes.items():
                    if name not in results:
                        continue
                    by_channel = np.moveaxis(results[name], axis, 0).reshape(results[name].shape[axis], -1)
                    if not np.isfinite(by_channel).all():
                        raise PassError(f"`{name}` is NaN or infinite on a calibration sample")
                    wide = by_channel.astype(np.float64)
                    found = [wide.sum(axis=1), np.square(wide).sum(axis=1)]
                    before = sums.get(name)
                    sums[name] = found if before is None else [a + b for a, b in zip(before, found, strict=True)]
                    counts[name] = counts.get(name, 0) + by_channel.shape[1]
                progress.advance()
    except (DataError, RunError, TargetError) as error:
        raise PassError(f"the model does not run on the calibration samples: {error}") from error
    return {name: Moments(*(total / max(counts[name], 1) for total in both)) for name, both in sums.items()}
