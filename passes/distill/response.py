"""`distill.response`: train a student to answer as its teacher does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, PassResult
from mopt.passes.distill.options import Distillation
from mopt.plugin import option, register
from mopt.values import Ratio

if TYPE_CHECKING:
    from mopt.ir import Module


@register("distill.response")
@dataclass(frozen=True, kw_only=True)
class Response(Distillation):
    """Train the weights towards a teacher's outputs, beside a loss over the targets or without one.

    Student and teacher may come from different frameworks: both are graphs. Offline, the teacher runs once over the
    data; what it puts out is kept in the store, for every step with the same teacher and the same data. Zeros, clusters
    and grids of earlier passes stay, as with `tune`; killed or interrupted, the same command goes on where it stopped.
    """

    match: Literal["kl", "mse", "ctc"] = option(
        "kl",
        help="`kl`: divergence from the teacher's classes; `mse`: squared difference of outputs; `ctc`: divergence "
        "at each time step of a sequence, steps of blanks counting less",
    )
    temperature: float = option(2.0, help="`kl`, `ctc`: what logits are divided by", minimum=1e-2)
    axis: int = option(-1, help="`kl`: the axis of the classes")
    blank: int = option(0, help="`ctc`: the class of the blank; -1: the last")
    blanks: Ratio = option(
        Ratio(0.1), help="`ctc`: weight of a time step where the teacher is sure of the blank, against any other"
    )
    layout: Literal["ntc", "tnc"] = option("ntc", help="`ctc`: order of the output's axes: batch, time, classes")
    outputs: Mapping[str, str] = option(
        factory=dict,
        help="the student's output, then the teacher's, for each pair to compare; default: those of one name",
    )

    version: ClassVar[int] = 1
    source: ClassVar[str] = (
        "Hinton, Vinyals & Dean 2015 (arXiv:1503.02531); sequences: Takashima, Li & Kawai 2018 (ICASSP), "
        "frame by frame, weighted by the teacher's blanks"
    )

    def run(self, module: Module, context: Context) -> PassResult:
        """Train `module`, the student.

        Raises:
            PassError: teacher and student do not fit; see `Tune.run` for what else may be wrong.
            DataError: data and either network do not fit.
        """
        from mopt.passes.distill.response_run import distill_response

        return distill_response(module, self, context)
