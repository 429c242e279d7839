"""Running the float model over calibration samples once, and handing what named values held to a visitor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.ir import Module
from mopt.passes.contract import Context, PassError
from mopt.passes.quantize.calibration import with_outputs
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.data.sample_fit import feeds_of
from mopt.runtime.ort import OrtRunner
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.runtime.contract import Split

Arrays = Mapping[str, NDArray[Any]]
Reals = NDArray[np.float64]


def observe(
    module: Module, names: Sequence[str], split: Split, context: Context, *, label: str, visit: Callable[[Arrays], None]
) -> int:
    """Run `module` over a split one sample after the other; return how many there were.

    Args:
        names: of values of the main graph; inputs may be among them.
        label: of the progress bar.
        visit: called once a sample with the values by name.

    Raises:
        PassError: the model does not run, or a value was NaN or infinite.
    """
    watched, inputs, done = with_outputs(module, names), tuple(module.inputs), 0
    try:
        runner = OrtRunner(watched)
    except TargetError as error:
        raise PassError(f"the model can't be calibrated: {error}") from error
    with runner, context.progress(label, len(split)) as progress:
        for stacked in split.batches(1):
            feeds = feeds_of(stacked, inputs)
            try:
                results = {**feeds, **runner.run(feeds)}
            except RunError as error:
                raise PassError(f"the model does not run on calibration sample {done}: {error}") from error
            for name in names:
                if not np.isfinite(results[name]).all():
                    raise PassError(
                        f"value `{name}` is NaN or infinite on calibration sample {done}",
                        help="mend the samples or the model: a tensor without a range has no grid",
                    )
            visit({name: results[name] for name in names})
            done += 1
            progress.advance()
    return done


class ChannelStatistics:
    """What the channels of one value held over all samples, in a fixed size.

    Attributes:
        low, high: f64[C], least and greatest element, zero included.
        power: f64[C], mean square.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._count, self._samples = 0, 0
        self.low = self.high = self._squares = self._peaks = self._peak_squares = np.zeros(0)

    def add(self, array: NDArray[Any]) -> None:
        """Count one sample's array."""
        if not array.size:
            return
        others = tuple(axis for axis in range(array.ndim) if axis != self._axis % array.ndim)
        low = np.minimum(array.min(axis=others), 0).astype(np.float64)
        high = np.maximum(array.max(axis=others), 0).astype(np.float64)
        squares = np.square(array, dtype=np.float64).sum(axis=others)
        if not self._count:
            self.low, self.high = low, high
            self._squares, self._peaks, self._peak_squares = (np.zeros_like(squares) for _ in range(3))
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        peak = np.maximum(-low, high)
        self._squares = self._squares + squares
        self._peaks, self._peak_squares = self._peaks + peak, self._peak_squares + peak**2
        self._count += array.size // len(low)
        self._samples += 1

    @property
    def power(self) -> Reals:
        """The mean square of each channel."""
        return np.asarray(self._squares / max(self._count, 1))

    @property
    def peak(self) -> Reals:
        """The largest magnitude of each channel over all samples."""
        return np.asarray(np.maximum(-self.low, self.high))

    @property
    def reach(self) -> Reals:
        """The largest magnitude to be expected of unseen samples: mean and four deviations of the samples' peaks."""
        mean = self._peaks / max(self._samples, 1)
        spread = np.sqrt(np.maximum(self._peak_squares / max(self._samples, 1) - mean**2, 0))
        return np.asarray(np.maximum(self.peak, mean + 4 * spread))
