"""Which samples stand in which batch: a pure function of seed and epoch."""

import numpy as np
import pytest
from mopt.ir import TensorInfo
from mopt.runtime.contract import DataError
from mopt.runtime.data.splits import as_split
from mopt.runtime.training.batches import TrainingData

ANY = (TensorInfo("x", "f32", ("N", "W")),)


def test_every_sample_once_an_epoch_in_an_order_of_its_own(arrays):
    data = TrainingData(as_split(arrays([(3,)] * 10), "s"), ANY, 4, seed=1)
    assert len(data) == 3
    first, second = data.order(0), data.order(1)
    assert sorted(np.concatenate(first)) == list(range(10)) == sorted(np.concatenate(second))
    assert [len(row) for row in first] == [4, 4, 2]
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    again = TrainingData(as_split(arrays([(3,)] * 10), "s"), ANY, 4, seed=1)
    assert [row.tolist() for row in again.order(1)] == [row.tolist() for row in second]
    other = TrainingData(as_split(arrays([(3,)] * 10), "s"), ANY, 4, seed=2)
    assert [row.tolist() for row in other.order(1)] != [row.tolist() for row in second]


def test_without_shuffling_and_without_short_batches(arrays):
    data = TrainingData(as_split(arrays([(3,)] * 10), "s"), ANY, 4, shuffle=False, last="drop")
    assert [row.tolist() for row in data.order(5)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    feeds, targets, samples = data.batch(len(data) + 1)
    assert feeds["x"].tolist() == [[n] * 3 for n in (4, 5, 6, 7)]
    assert targets.tolist() == samples.tolist() == [4, 5, 6, 7]


def test_batches_hold_samples_of_one_shape(arrays):
    widths = [2, 5, 2, 5, 5, 2, 2]
    data = TrainingData(as_split(arrays([(width,) for width in widths]), "s"), ANY, 3, seed=0)
    assert len(data) == len(data.order(0)) == len(data.order(1)) == 3
    for step in range(6):
        feeds, _, samples = data.batch(step)
        assert {widths[n] for n in samples} == {feeds["x"].shape[1]}
    dropping = TrainingData(as_split(arrays([(width,) for width in widths]), "s"), ANY, 3, last="drop")
    assert len(dropping) == len(dropping.order(0)) == 2


def test_text_targets_come_as_they_are():
    split = as_split([{"x": np.zeros(2, np.float32), "target": text} for text in ("ab", "c")], "s")
    _, targets, _ = TrainingData(split, ANY, 2, shuffle=False).batch(0)
    assert list(targets) == ["ab", "c"]


def test_processes_get_equal_shares_of_a_batch(arrays):
    data = TrainingData(as_split(arrays([(3,)] * 10), "s"), ANY, 4, seed=3)
    whole = data.batch(0)[2].tolist()
    assert data.batch(0, 0, 2)[2].tolist() + data.batch(0, 1, 2)[2].tolist() == whole
    assert [len(data.batch(0, rank, 3)[2]) for rank in range(3)] == [1, 1, 1]
    assert data.batch(2, 2, 3)[0] == {}, "two samples are too few for three processes"


def test_data_shorter_than_a_batch(arrays):
    short = as_split(arrays([(3,)] * 5), "text.train")
    data = TrainingData(short, ANY, 8)
    assert (len(data), data.short) == (1, True)
    with pytest.raises(DataError, match=r"`text.train` has 5 samples, fewer than one batch of 8, and short batches"):
        TrainingData(short, ANY, 8, last="drop")


def test_a_network_with_a_fixed_batch_size(arrays):
    fixed = (TensorInfo("x", "f32", (4, 3)),)
    data = TrainingData(as_split(arrays([(3,)] * 10), "s"), fixed, 32)
    assert [len(row) for row in data.order(0)] == [4, 4]
    with pytest.raises(DataError, match="the model takes batches of that size only"):
        TrainingData(as_split(arrays([(3,)] * 3), "s"), fixed, 32)
