"""GPTQ: rounding the weights of a product one input after the other, so that later ones make up for earlier errors.

For y = x W, the squared error of y over calibration samples is a quadratic form in the error of W, with H = Σ xᵀ x.
After a row of W is rounded, the best change of the rows behind it follows from H's inverse (Frantar et al. 2023, here
with its Cholesky factor). Weights that are exactly zero stay so.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Context, PassError
from mopt.passes.quantize.blocks import Blocks, levels
from mopt.runtime.contract import DataError, RunError, TargetError
from mopt.runtime.data.sample_fit import SampleFit, feeds_of
from mopt.runtime.data.splits import fit_to, split_name
from mopt.runtime.ort import OrtRunner
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.values import DataRef

_DAMP: Final = 0.01
"""Added to H's diagonal, as a share of its mean: inputs that hardly vary would make the inverse explode."""

Reals = NDArray[np.float64]


def second_moments(module: Module, names: Collection[str], data: DataRef, context: Context) -> dict[str, Reals]:
    """Return H = Σ xᵀ x, [K, K], over all samples and rows, for each named value [..., K] of the main graph.

    One sample is in memory at a time.

    Raises:
        PassError: there are no samples, they do not fit the model, or a value is not finite on one.
    """
    split = context.split(data)
    if not len(split):
        raise PassError(f"`{data}` has no samples to calibrate with", help="give a split that has some")
    watched = module.clone()
    inputs, present = tuple(module.inputs), {value.name for value in watched.graph.outputs}
    made = {value.name: value for node in watched.graph for value in node.outputs}
    for name in names:
        if name in made and name not in present:
            made[name].type = made[name].type or ir.TensorType(ir.DataType.FLOAT)
            watched.graph.outputs.append(made[name])
    found: dict[str, Reals] = {}
    try:
        fitted, runner = fit_to(split, SampleFit.of_module(module, split_name(split))), OrtRunner(watched)
        with context.progress("calibrate", len(split)) as progress:
            for sample in fitted.batches(1):
                feeds = feeds_of(sample, inputs)
                results = {**feeds, **runner.run(feeds)}
                for name in names:
                    rows = results[name].reshape(-1, results[name].shape[-1]) if name in results else None
                    if rows is None:
                        continue
                    if not np.isfinite(rows).all():
                        raise PassError(f"`{name}` is NaN or infinite on a calibration sample")
                    found[name] = found.get(name, 0.0) + (rows.T @ rows).astype(np.float64)
                progress.advance()
    except (DataError, RunError, TargetError) as error:
        raise PassError(f"the model does not run on the calibration samples: {error}") from error
    return found


def quantize(rows: NDArray[Any], moment: Reals, bits: int, block: int, *, symmetric: bool) -> Blocks:
    """Quantise W's transpose [N, K] in blocks along K.

    Args:
        moment: H, [K, K].
    """
    count, size = rows.shape
    top, weights = (1 << bits) - 1, rows.astype(np.float64)
    factor = _inverse_factor(moment)
    values = np.zeros(rows.shape, np.uint8)
    scales, zeros = [], []
    for start in range(0, size, block):
        end = min(start + block, size)
        part = weights[:, start:end]
        scale, zero = levels(part.astype(np.float32), bits, symmetric=symmetric)
        scales.append(scale)
        zeros.append(zero)
        errors = np.zeros((count, end - start))
        for column in range(end - start):
            at = start + column
            steps = np.clip(np.rint(part[:, column] / scale) + zero, 0, top)
            steps = np.where(rows[:, at] == 0, zero, steps)
            values[:, at] = steps
            errors[:, column] = (part[:, column] - scale * (steps - zero)) / factor[at, at]
            part[:, column + 1 :] -= errors[:, column, None] * factor[at, at + 1 : end]
        weights[:, end:] -= errors @ factor[start:end, end:]
    return Blocks(values, np.stack(scales, axis=-1), np.stack(zeros, axis=-1))


def _inverse_factor(moment: Reals) -> Reals:
    """Return the upper Cholesky factor of the damped inverse of H."""
    diagonal = np.diag(moment)
    damp = _DAMP * float(diagonal.mean()) or 1.0
    inverse = np.asarray(np.linalg.inv(moment + damp * np.eye(len(moment))), np.float64)
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, np.float64)
