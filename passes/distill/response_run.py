"""Distilling a teacher's outputs into a student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mopt.passes.contract import Context, Note, PassError, PassResult
from mopt.passes.distill.interface import Pair, matched_inputs, matched_outputs
from mopt.passes.tune.training import train_network, training_errors

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.passes.distill.options import Distillation
    from mopt.passes.distill.response import Response


def distill_response(module: Module, options: Response, context: Context) -> PassResult:
    """Train `module` in place. See `Response.run`."""
    with training_errors():
        from mopt.passes.distill.guidance import guidance_of
        from mopt.passes.distill.objectives import Comparison, ResponseObjective
        from mopt.passes.distill.output_kind import output_kind
        from mopt.passes.tune.network import trained_network
        from mopt.runtime.trainable.writing import write_back

        name = options.teacher.name
        teacher = context.module(name)
        feeds = matched_inputs(module, teacher, name, options.inputs)
        free = (0, 1) if options.match == "ctc" else ()
        pairs = matched_outputs(module, teacher, name, options.outputs, free=free)
        _check_layout(pairs, options)
        notes = same_network(module, teacher, options)
        comparisons = tuple(
            Comparison(
                pair.student.name,
                pair.teacher.name,
                output_kind(module, pair.student.name),
                output_kind(teacher, pair.teacher.name),
            )
            for pair in pairs
        )
        # Before the teacher runs: what can't be trained is told at once.
        network = trained_network(module, options, context)
        wanted = tuple(dict.fromkeys(pair.teacher.name for pair in pairs))
        guidance, told = guidance_of(teacher, options, context, feeds, wanted, _batch_axis(options))
        objective = ResponseObjective(guidance, comparisons, options, targets_loss(options, context))
        result, trained = train_network(module, network, objective, options, context)
        notes = (*trained, Note(told), *notes)
        if result.kept == 0:
            return PassResult(module, False, notes)
        write_back(network, module)
    module.touch()
    return PassResult(module, True, notes)


def targets_loss(options: Distillation, context: Context) -> Any:
    """Return the objective over the targets, or None."""
    if options.loss is None:
        return None
    from mopt.runtime.training.objective import LossObjective

    return LossObjective(context.loss(options.loss), options.loss.name)


def same_network(module: Module, teacher: Module, options: Distillation) -> tuple[Note, ...]:
    """Look whether the student is its teacher, weight for weight.

    Raises:
        PassError: it is, and there is no loss over the targets: nothing can be learnt.
    """
    weights = _weights(module)
    if not weights or weights != _weights(teacher):
        return ()
    told = f"the student is its teacher `{options.teacher.name}`, weight for weight"
    if options.loss is None:
        raise PassError(
            f"{told}: there is nothing to learn", help="prune or replace the student first, or give `loss=`"
        )
    return (Note(f"{told}, when training begins", severity="warning"),)


def _weights(module: Module) -> dict[str, tuple[Any, ...]]:
    return {w.name: (w.shape, hash(w.numpy().tobytes())) for w in module.weights() if w.is_parameter}


def _batch_axis(options: Response) -> int:
    return 1 if options.match == "ctc" and options.layout == "tnc" else 0


def _check_layout(pairs: tuple[Pair, ...], options: Response) -> None:
    if options.match != "ctc":
        return
    for info in (info for pair in pairs for info in (pair.student, pair.teacher)):
        if info.ranked and len(info.shape) != 3:
            raise PassError(
                f"`match=ctc` compares sequences, [batch, time, classes], and there is an output `{info}`",
                help="`match=kl` compares classes; `outputs={…}` chooses outputs",
            )
