"""The built-in metrics. Declarations only; the figures are scikit-learn's and jiwer's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.plugin import option, register
from mopt.runtime.contract import Metric, MetricState
from mopt.values import Location, PythonRef

if TYPE_CHECKING:
    from mopt.ir.module import Module

Goal = Literal["min", "max"]


@register("python")
@dataclass(frozen=True)
class PythonMetric(Metric):
    """A metric of the recipe's Python.

    Either `name(outputs, targets) -> float`, called once with the whole split: `outputs` maps output names to
    arrays stacked over all samples (to lists of arrays where their shapes differ), `targets` is a list. Or a
    class with `update(outputs, targets)`, called for each batch, and `compute() -> float`.
    """

    ref: PythonRef = option(help='`"file.py:name"`')
    goal: Goal = option("max", help="which direction is better")  # type: ignore[misc]  # an option of this one alone
    args: Mapping[str, object] = option(factory=dict, help="keyword arguments of the function or of the class")

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation."""
        del module
        from mopt.runtime.judge.python_metric import start

        return start(self)


@dataclass(frozen=True)
class OutputMetric(Metric):
    """Options of metrics over one output."""

    output: str = option("", help="the model's output; default: its only or first one")


@register("accuracy")
@dataclass(frozen=True)
class Accuracy(OutputMetric):
    """Share of samples whose class is among the model's `top` best (scikit-learn's accuracy for 1)."""

    top: int = option(1, minimum=1, help="right if among this many best classes")
    threshold: float = option(0.5, help="of an output with one value a sample: class 1 from here on")

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation."""
        del module
        from mopt.runtime.judge.class_metrics import AccuracyState

        return AccuracyState(self)


@register("f1")
@dataclass(frozen=True)
class F1(OutputMetric):
    """F1 score of classes (scikit-learn)."""

    tools: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    average: Literal["macro", "micro", "weighted", "binary"] = option("macro", help="over classes")
    threshold: float = option(0.5, help="of an output with one value a sample: class 1 from here on")

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation."""
        del module
        from mopt.runtime.judge.class_metrics import F1State

        return F1State(self)


@register("cross_entropy")
@dataclass(frozen=True)
class CrossEntropy(OutputMetric):
    """Mean negative log-likelihood of the right class, in nats."""

    goal: ClassVar[Goal] = "min"
    kind: Literal["logits", "probabilities"] = option("logits", help="what the model puts out")

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation."""
        del module
        from mopt.runtime.judge.class_metrics import CrossEntropyState

        return CrossEntropyState(self)


@register("mse")
@dataclass(frozen=True)
class MeanSquaredError(OutputMetric):
    """Mean squared error over all elements."""

    goal: ClassVar[Goal] = "min"

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation."""
        del module
        from mopt.runtime.judge.regression_metrics import SquaredErrorState

        return SquaredErrorState(self)


@register("cosine")
@dataclass(frozen=True)
class Cosine(OutputMetric):
    """Mean cosine between a sample's output and its target, each flattened."""

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation."""
        del module
        from mopt.runtime.judge.regression_metrics import CosineState

        return CosineState(self)


@dataclass(frozen=True)
class TextMetric(OutputMetric):
    """Options of metrics over text.

    An output of text is taken as it is; logits or probabilities `[batch, time, classes]` (`layout=ntc`, or `tnc`)
    are decoded greedily by CTC: best class at each step, repeats merged, blanks dropped.
    """

    tools: ClassVar[tuple[str, ...]] = ("jiwer",)

    decode: Literal["ctc_greedy", "text"] = option("ctc_greedy", help="how an output becomes text")
    charset: tuple[str, ...] = option((), help='the characters of the classes in order, blank left out: ["0123456789"]')
    charset_file: Location | None = option(
        None, help="a text file with one character a line, or an ONNX file whose metadata has `character`"
    )
    blank: int = option(0, help="the class of the blank; -1: the last")
    layout: Literal["ntc", "tnc"] = option("ntc", help="order of the output's axes: batch, time, classes")
    ignore_case: bool = option(False, help="compare in lower case")


@register("cer")
@dataclass(frozen=True)
class CharacterErrorRate(TextMetric):
    """Character error rate over the split: edits by characters of the targets (jiwer).

    Without `charset` or `charset_file` the model's own metadata is asked (PP-OCR's `character`).
    """

    goal: ClassVar[Goal] = "min"

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation."""
        from mopt.runtime.judge.text_metrics import ErrorRateState

        return ErrorRateState(self, module, "cer")


@register("wer")
@dataclass(frozen=True)
class WordErrorRate(TextMetric):
    """Word error rate over the split: edits by words of the targets (jiwer)."""

    goal: ClassVar[Goal] = "min"

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation."""
        from mopt.runtime.judge.text_metrics import ErrorRateState

        return ErrorRateState(self, module, "wer")


@register("exact")
@dataclass(frozen=True)
class ExactMatch(TextMetric):
    """Share of samples whose text is right from the first to the last character."""

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation."""
        from mopt.runtime.judge.text_metrics import ExactState

        return ExactState(self, module)
