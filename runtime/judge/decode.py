"""Outputs as text: greedy CTC decoding, and where the characters of the classes are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from mopt.runtime.contract import DataError
from mopt.runtime.judge.chosen_output import pick
from mopt.values import LocationError

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.judge.metrics import TextMetric

Array = np.ndarray[Any, Any]

_METADATA: Final = ("character", "charset", "characters", "dictionary")


class TextReader:
    """Turns a model's outputs into one string a sample.

    Args:
        metric: the metric's options.
        characters: of the classes in order, without the blank; None where the output is text already.
    """

    def __init__(self, metric: TextMetric, characters: Sequence[str] | None) -> None:
        self._metric, self._characters = metric, characters

    @classmethod
    def of(cls, metric: TextMetric, module: Module | None) -> TextReader:
        """Find the characters: declared, in a file, or in the model's metadata.

        Raises:
            DataError: the file can't be read.
        """
        if metric.decode == "text":
            return cls(metric, None)
        if metric.charset:
            # One string is a row of characters; several are one class each.
            return cls(metric, tuple(metric.charset[0]) if len(metric.charset) == 1 else metric.charset)
        if metric.charset_file is not None:
            try:
                path = metric.charset_file.resolve()
            except LocationError as error:
                raise DataError(f"`charset_file`: {error}") from error
            return cls(metric, _from_file(path))
        return cls(metric, None if module is None else _from_metadata(dict(module.model.metadata_props)))

    def read(self, outputs: Mapping[str, Array], count: int) -> list[str]:
        """Return one string for each of `count` samples.

        Raises:
            DataError: no characters are known, or their number is not the number of classes.
        """
        array = pick(outputs, self._metric.output)
        if array.dtype.kind in "OUS":
            return [self._case(_text(item)) for item in array.reshape(count, -1)[:, 0]]
        if self._metric.decode == "text":
            raise DataError(f"`decode=text`, but the output is {array.dtype.name}, not text")
        if array.ndim != 3:
            raise DataError(f"the output has the shape {list(array.shape)}; CTC decoding takes [batch, time, classes]")
        scores = array if self._metric.layout == "ntc" else array.transpose(1, 0, 2)
        if len(scores) != count:
            raise DataError(
                f"the output has the shape {list(array.shape)} for {count} samples with `layout={self._metric.layout}`"
            )
        classes = scores.shape[2]
        blank = self._metric.blank % classes
        table = self._table(classes, blank)
        return [self._case("".join(table[index] for index in best_path(row, blank))) for row in scores]

    def _table(self, classes: int, blank: int) -> list[str]:
        if self._characters is None:
            raise DataError(
                "no characters are known for the output's classes, and the model's metadata has none; "
                "give `charset=[…]` or `charset_file=…`"
            )
        characters = list(self._characters)
        if len(characters) == classes - 2:
            characters.append(" ")  # PP-OCR's convention: the space is in the model, not in its dictionary
        if len(characters) != classes - 1:
            raise DataError(
                f"{len(self._characters)} characters are known, but the output has {classes} classes "
                f"(one of them the blank, class {blank}); is it another model's character set?"
            )
        return [*characters[:blank], "", *characters[blank:]]

    def _case(self, text: str) -> str:
        return text.lower() if self._metric.ignore_case else text


def best_path(scores: Array, blank: int) -> list[int]:
    """Return the classes of one sample, [time, classes]: the best at each step, repeats merged, blanks dropped.

    Graves et al. 2006, "Connectionist temporal classification", best path decoding.
    """
    best = scores.argmax(axis=1)
    fresh = np.ones(len(best), dtype=bool)
    fresh[1:] = best[1:] != best[:-1]
    return [int(index) for index in best[fresh & (best != blank)]]


def target_texts(targets: Sequence[Any], *, ignore_case: bool) -> list[str]:
    """Return targets as strings.

    Raises:
        DataError: they are no text.
    """
    texts = []
    for target in targets:
        if isinstance(target, (str, bytes, np.str_)):
            text = _text(target)
        elif np.ndim(target) == 0 and np.asarray(target).dtype.kind in "OU":
            text = _text(np.asarray(target).item())
        else:
            raise DataError(f"a metric over text needs text as each sample's target, not {target!r:.60}")
        texts.append(text.lower() if ignore_case else text)
    return texts


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _from_file(path: Path) -> Sequence[str]:
    if path.suffix == ".onnx":
        import onnx

        model = onnx.load(str(path), load_external_data=False)
        found = _from_metadata({entry.key: entry.value for entry in model.metadata_props})
        if found is None:
            raise DataError(f"{path.name} has no characters in its metadata ({', '.join(_METADATA)})")
        return found
    try:
        return _lines(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} can't be read as a list of characters (UTF-8, one a line): {error}") from error


def _from_metadata(metadata: Mapping[str, str]) -> Sequence[str] | None:
    return next((_lines(metadata[key]) for key in _METADATA if metadata.get(key)), None)


def _lines(text: str) -> list[str]:
    """Split at line feeds only: the characters may be other line breaks (U+2028, say), and a space is one, too."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
