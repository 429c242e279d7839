"""A teacher's outputs on disk, sample by sample, memory-mapped; made once, gone on with where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime
from mopt.passes.contract import Context, PassError
from mopt.runtime.data.sample_fit import feeds_of

if TYPE_CHECKING:
    from mopt.passes.distill.teacher import Teacher
    from mopt.runtime.contract import Split

Array = np.ndarray[Any, Any]

FORMAT: Final = "1"
BATCH: Final = 32
"""Samples a run of the teacher; part of what decides the last bits of its outputs."""
_AXES: Final = 8


class Recording:
    """What a teacher puts out on each sample of a split, in a folder.

    `NAME.f32` holds an output's elements, sample after sample; `index.i64` holds, for each sample and each output,
    the first element's place, the number of axes, and the sizes (filled up with zeros to eight). A row of the index
    is written after what it points to, so that a folder is good as far as its index goes.

    Args:
        folder: where; see `recording_folder`.
        outputs: names of the outputs.
        count: samples of the split.
    """

    def __init__(self, folder: Path, outputs: Sequence[str], count: int) -> None:
        self._folder, self._outputs, self._count = folder, tuple(outputs), count
        self._maps: dict[str, Array] = {}
        self._index: Array | None = None

    @property
    def done(self) -> int:
        """How many samples are recorded."""
        index = self._folder / "index.i64"
        return index.stat().st_size // self._row if index.is_file() else 0

    @property
    def bytes(self) -> int:
        """What lies on the disk."""
        return sum(path.stat().st_size for path in self._folder.iterdir() if path.is_file())

    def make(self, teacher: Teacher, split: Split, context: Context) -> int:
        """Record what is missing; return for how many samples the teacher ran. Other processes wait meanwhile.

        Raises:
            DataError: the teacher and the data do not fit.
            PassError: the disk is full, or can't be written.
        """
        if self.done >= self._count:
            return 0
        try:
            with self._held():
                return self._record(teacher, split, context)
        except OSError as error:
            raise PassError(
                f"what the teacher `{teacher.name}` puts out can't be kept: {error.strerror or error}",
                help="`mode=online` keeps nothing on disk; what was recorded so far is gone on with",
            ) from error

    def read(self, samples: Sequence[int]) -> dict[str, Array]:
        """Return the outputs of some samples, stacked, f32.

        Raises:
            ValueError: they have different shapes.
        """
        if self._index is None:
            index = np.memmap(self._folder / "index.i64", np.int64, mode="r")
            self._index = np.asarray(index).reshape(-1, len(self._outputs), _AXES + 2)
            for at, _ in enumerate(self._outputs):
                self._maps[self._outputs[at]] = np.memmap(self._file(at), np.float32, mode="r")
        stacked = {}
        for at, name in enumerate(self._outputs):
            rows = []
            for number in samples:
                first, axes, *sizes = self._index[int(number), at].tolist()
                shape = sizes[:axes]
                size = int(np.prod(shape))
                rows.append(self._maps[name][first : first + size].reshape(shape))
            stacked[name] = np.stack(rows)
        return stacked

    @property
    def _row(self) -> int:
        return len(self._outputs) * (_AXES + 2) * 8

    def _file(self, at: int) -> Path:
        return self._folder / f"{at}.f32"

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with contextlib.suppress(ImportError):  # no advisory locks on this system
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _record(self, teacher: Teacher, split: Split, context: Context) -> int:
        done, start, ran = self.done, 0, 0
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(context.progress(f"teacher {teacher.name}", self._count))
            index = stack.enter_context((self._folder / "index.i64").open("ab"))
            files = [stack.enter_context(self._file(at).open("ab")) for at, _ in enumerate(self._outputs)]
            whole = False
            for batch in teacher.fitted(split).batches(BATCH):
                count = len(next(iter(batch.values())))
                if start + count > done:
                    if not whole:
                        # Behind the last whole batch lies what a killed process had begun.
                        ends = self._ends(start)
                        index.truncate(start * self._row)
                        for file, end in zip(files, ends, strict=True):
                            file.truncate(end * 4)
                            file.seek(0, 2)
                        whole = True
                    found = teacher.run(feeds_of(batch, teacher.inputs), _numbers(start, count, split))
                    self._append(index, files, found, count, split)
                    ran += count
                start += count
                bar.advance(count)
        return ran

    def _append(self, index: Any, files: Sequence[Any], found: dict[str, Array], count: int, split: Split) -> None:
        rows = np.zeros((count, len(self._outputs), _AXES + 2), np.int64)
        for at, name in enumerate(self._outputs):
            array = found[name]
            if len(array) != count or array.ndim - 1 > _AXES:
                raise PassError(
                    f"output `{name}` of the teacher has the shape {list(array.shape)} for {count} samples; offline, "
                    "it has one row a sample",
                    help="`mode=online` takes it as it is",
                )
            size = int(np.prod(array.shape[1:]))
            rows[:, at, 0] = files[at].tell() // 4 + np.arange(count) * size
            rows[:, at, 1] = array.ndim - 1
            rows[:, at, 2 : 1 + array.ndim] = array.shape[1:]
            files[at].write(np.ascontiguousarray(array).tobytes())
            files[at].flush()
        index.write(rows.tobytes())
        index.flush()

    def _ends(self, samples: int) -> list[int]:
        """Return where each output's elements of the first so many samples end."""
        if not samples:
            return [0] * len(self._outputs)
        with (self._folder / "index.i64").open("rb") as file:
            file.seek((samples - 1) * self._row)
            last = np.frombuffer(file.read(self._row), np.int64).reshape(len(self._outputs), -1)
        return [int(row[0]) + int(np.prod(row[2 : 2 + int(row[1])])) for row in last]


def recording_folder(base: Path, outputs: Sequence[str], feeds: dict[str, str]) -> Path:
    """Return the folder of some outputs below the one that belongs to a teacher and its data."""
    told = [FORMAT, onnxruntime.__version__, str(BATCH), *outputs, *(f"{key}={feeds[key]}" for key in sorted(feeds))]
    return base / hashlib.blake2b("\n".join(told).encode(), digest_size=10).hexdigest()


def _numbers(start: int, count: int, split: Split) -> str:
    of = f"of `{getattr(split, 'name', 'the data')}`"
    return f"sample {start} {of}" if count == 1 else f"samples {start} to {start + count - 1} {of}"
