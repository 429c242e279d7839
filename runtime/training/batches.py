"""The batches of a training run: which samples stand in which, as a function of seed and step alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.runtime.contract import DataError, Sample
from mopt.runtime.data.batching import batches
from mopt.runtime.data.sample_fit import SampleFit, feeds_of
from mopt.runtime.data.splits import TARGET, fit_to, split_name

if TYPE_CHECKING:
    from mopt.runtime.contract import Split

Array = np.ndarray[Any, Any]


class TrainingData:
    """A split in random order, in batches of equal shape.

    Every sample of an epoch is used once. Batches hold samples of one shape, unless the data set pads; those that
    fill no batch at the end of an epoch form short ones, or are left out. Samples are fitted to the inputs and
    held in memory (those that the data set holds itself are not copied).

    Args:
        split: the samples.
        inputs: the network's inputs (`Module.inputs`).
        batch: samples in a batch; a network with a fixed batch size has its own, and then short ones are left out.
        last: `keep` or `drop` short batches.
        shuffle: draw an order for each epoch.
        seed: what it is drawn from.

    Raises:
        DataError: samples do not fit the inputs, or there are too few for one batch.
    """

    def __init__(
        self,
        split: Split,
        inputs: Sequence[Any],
        batch: int,
        *,
        last: str = "keep",
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self.name = split_name(split)
        self._inputs = tuple(inputs)
        fit = SampleFit(self._inputs, self.name)
        self._pad = bool(getattr(split, "pad", False))
        self._samples: list[Sample] = list(fit_to(split, fit))
        self._size = fit.batch_size(batch)
        fixed = fit.batch_size(batch + 1) == self._size
        self._drop = last == "drop" or fixed
        self._shuffle, self._seed = shuffle, seed
        shapes = [None if self._pad else _shape(sample) for sample in self._samples]
        kinds = {shape: number for number, shape in enumerate(dict.fromkeys(shapes))}
        self._kinds = np.array([kinds[shape] for shape in shapes])
        counts = np.bincount(self._kinds)
        self._count = int((counts // self._size if self._drop else -(-counts // self._size)).sum())
        if not self._count:
            why = "the model takes batches of that size only" if fixed else 'short batches are left out (`last="drop"`)'
            largest = int(counts.max())
            of = " of one shape" if len(kinds) > 1 else ""
            raise DataError(
                f"`{self.name}` has {largest} samples{of}, fewer than one batch of {self._size}, and {why}; "
                "take a smaller `batch`, or more data"
            )

    def __len__(self) -> int:
        """How many batches an epoch has; the same for every epoch."""
        return self._count

    @property
    def samples(self) -> int:
        """How many samples the split has."""
        return len(self._samples)

    @property
    def short(self) -> bool:
        """Whether not even one batch of an epoch is full."""
        return bool(np.bincount(self._kinds).max() < self._size)

    @functools.lru_cache(maxsize=2)  # noqa: B019  (lives as long as a run)
    def order(self, epoch: int) -> tuple[Array, ...]:
        """Return the sample numbers of each batch of an epoch: a pure function of (seed, epoch)."""
        count = len(self._samples)
        numbers = np.arange(count)
        if self._shuffle:
            numbers = np.random.default_rng([self._seed, epoch]).permutation(count)
        waiting: dict[int, list[int]] = {}
        found: list[Array] = []
        for number in numbers.tolist():
            row = waiting.setdefault(int(self._kinds[number]), [])
            row.append(number)
            if len(row) == self._size:
                found.append(np.array(row))
                row.clear()
        if not self._drop:
            found += [np.array(row) for row in waiting.values() if row]
        return tuple(found)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[dict[str, Array], Any, Array]:
        """Return one process's share of the batch of a step: feeds, targets (or None), sample numbers.

        Several processes get equal shares; what is left over of a batch is left out, so that the mean of their
        gradients is the gradient of the mean. A share is empty where there are fewer samples than processes.
        """
        epoch, place = divmod(step, len(self))
        numbers = self.order(epoch)[place]
        if world > 1:
            share = len(numbers) // world
            numbers = numbers[rank * share : (rank + 1) * share]
            if not share:
                return {}, None, numbers
        chosen = [self._samples[number] for number in numbers]
        stacked = next(batches(iter(chosen), len(chosen), pad=self._pad, name=self.name))
        return feeds_of(stacked, self._inputs), stacked.get(TARGET), numbers


def _shape(sample: Sample) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((key, np.shape(value)) for key, value in sample.items() if key != TARGET)
