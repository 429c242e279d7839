"""A teacher: a graph that onnxruntime runs, fed with what its student is fed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.passes.contract import PassError
from mopt.runtime.contract import DataError, RunError, Sample, TargetError
from mopt.runtime.data.sample_fit import SampleFit
from mopt.runtime.data.splits import TARGET, Fitted, split_name
from mopt.runtime.ort import OrtRunner, cast_feeds

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.runtime.contract import Split

Array = np.ndarray[Any, Any]


class Teacher:
    """Runs a graph for some of its outputs.

    Args:
        module: the graph; any that onnxruntime runs, quantised ones too.
        name: what the recipe calls it.
        feeds: the student's input for each of its own (`matched_inputs`).
        outputs: the outputs that are wanted.
        batch_axis: theirs; it comes first in what is returned.

    Raises:
        PassError: onnxruntime refuses it.
    """

    def __init__(
        self, module: Module, name: str, feeds: Mapping[str, str], outputs: Sequence[str], batch_axis: int = 0
    ) -> None:
        self._axis = batch_axis
        self.name, self.inputs, self.outputs = name, module.inputs, tuple(outputs)
        self._feeds = dict(feeds)
        try:
            self._runner = OrtRunner(module, patterns=False)
        except TargetError as error:
            raise PassError(f"the teacher `{name}` does not run: {error}", help=error.help) from error

    def fitted(self, split: Split) -> Fitted:
        """Return a split of the student's samples as the teacher takes them.

        Raises:
            DataError: when its samples are read, if they do not fit.
        """
        return Fitted(_Renamed(split, self._feeds), SampleFit(self.inputs, split_name(split)))

    def feeds_of(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the teacher is fed for what the student is fed, in its own element types."""
        return {theirs: feeds[mine] for theirs, mine in self._feeds.items()}

    def run(self, feeds: Mapping[str, Array], where: str) -> dict[str, Array]:
        """Return the wanted outputs, f32, for feeds under the teacher's names.

        A batch that is smaller than the one the graph was made for is filled up with its last sample.

        Args:
            where: which samples these are, for messages.

        Raises:
            DataError: it does not run on them, or puts out NaN.
        """
        count = len(next(iter(feeds.values())))
        size = self._fixed()
        if size is not None and count < size:
            feeds = {
                key: np.concatenate([array, np.repeat(array[-1:], size - count, 0)]) for key, array in feeds.items()
            }
        try:
            found = self._runner.run(cast_feeds(feeds, self._runner.inputs))
        except RunError as error:
            raise DataError(f"the teacher `{self.name}` does not run on {where}: {error}") from error
        wanted = {}
        for name in self.outputs:
            array = np.asarray(found[name], np.float32)
            array = np.moveaxis(array, self._axis, 0) if array.ndim > self._axis else array
            if np.isnan(array).any():
                raise DataError(f"output `{name}` of the teacher `{self.name}` is NaN on {where}")
            wanted[name] = array[:count] if size is not None and len(array) == size else array
        return wanted

    def close(self) -> None:
        """Free the session."""
        self._runner.close()

    def _fixed(self) -> int | None:
        sizes = {info.shape[0] for info in self.inputs if info.shape}
        size = sizes.pop() if len(sizes) == 1 else None
        return size if isinstance(size, int) else None


class _Renamed:
    """A split under the teacher's names for its inputs."""

    def __init__(self, split: Split, feeds: Mapping[str, str]) -> None:
        self._split, self._feeds = split, feeds
        self.name, self.pad = split_name(split), bool(getattr(split, "pad", False))

    def __len__(self) -> int:
        return len(self._split)

    def __iter__(self) -> Iterator[Sample]:
        for sample in self._split:
            named = {theirs: sample[mine] for theirs, mine in self._feeds.items() if mine in sample}
            # A pair names no input: the only one takes it, whatever it is called.
            yield named or {key: value for key, value in sample.items() if key != TARGET}

    def batches(self, size: int) -> Iterator[Mapping[str, Array]]:
        raise TypeError("fitted before it is batched")
