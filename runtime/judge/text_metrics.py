"""Metrics over text; the figures are jiwer's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from mopt.runtime.contract import DataError
from mopt.runtime.judge.decode import TextReader, target_texts

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.judge.metrics import TextMetric

Array = np.ndarray[Any, Any]


class ErrorRateState:
    """Keeps texts, and compares them at the end: the rate is of all edits by all characters or words."""

    def __init__(self, metric: TextMetric, module: Module | None, unit: Literal["cer", "wer"]) -> None:
        self._metric, self._unit = metric, unit
        self._reader = TextReader.of(metric, module)
        self._read: list[str] = []
        self._wanted: list[str] = []

    def update(self, outputs: Mapping[str, Array], targets: Sequence[Any]) -> None:
        """Take a batch."""
        self._wanted += target_texts(targets, ignore_case=self._metric.ignore_case)
        self._read += self._reader.read(outputs, len(targets))

    def compute(self) -> float:
        """Return the rate; it can exceed 1 where more is read than is there."""
        import jiwer

        if not any(text.strip() for text in self._wanted):
            raise DataError(f"`{self._unit}`: every target is empty")
        # jiwer refuses empty references; an insertion into one counts against the whole split all the same.
        if self._unit == "cer":
            found = jiwer.process_characters(self._wanted, self._read, **_untouched(characters=True))
        else:
            found = jiwer.process_words(self._wanted, self._read, **_untouched(characters=False))
        edits = found.substitutions + found.deletions + found.insertions
        return float(edits / (found.hits + found.substitutions + found.deletions))


class ExactState:
    """Counts texts without an error."""

    def __init__(self, metric: TextMetric, module: Module | None) -> None:
        self._metric = metric
        self._reader = TextReader.of(metric, module)
        self._right = self._seen = 0

    def update(self, outputs: Mapping[str, Array], targets: Sequence[Any]) -> None:
        """Take a batch."""
        wanted = target_texts(targets, ignore_case=self._metric.ignore_case)
        read = self._reader.read(outputs, len(targets))
        self._right += sum(one == other for one, other in zip(read, wanted, strict=True))
        self._seen += len(wanted)

    def compute(self) -> float:
        """Return the share."""
        return self._right / self._seen if self._seen else float("nan")


def _untouched(*, characters: bool) -> dict[str, Any]:
    """Return transforms that split into characters or words and change nothing else (jiwer's own strip)."""
    import jiwer

    split = jiwer.ReduceToListOfListOfChars() if characters else jiwer.ReduceToListOfListOfWords()
    transform = jiwer.Compose([split])
    return {"reference_transform": transform, "hypothesis_transform": transform}
