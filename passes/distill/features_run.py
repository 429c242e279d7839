"""Distilling a teacher's features into a student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mopt.passes.contract import Context, Note, PassResult
from mopt.passes.distill.interface import matched_inputs
from mopt.passes.distill.response_run import same_network, targets_loss
from mopt.passes.tune.training import train_network, training_errors

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.passes.distill.features import Features


def distill_features(module: Module, options: Features, context: Context) -> PassResult:
    """Train `module` in place. See `Features.run`."""
    with training_errors():
        from mopt.passes.distill.feature_objective import FeatureObjective, compared
        from mopt.passes.distill.guidance import guidance_of
        from mopt.passes.distill.layers import layer_value, tapped
        from mopt.passes.distill.taps import Tapped
        from mopt.passes.tune.network import trained_network
        from mopt.runtime.trainable.writing import write_back

        name = options.teacher.name
        teacher = context.module(name)
        feeds = matched_inputs(module, teacher, name, options.inputs)
        mine = [layer_value(module, own, "the student") for own, _ in options.pairs]
        theirs = [layer_value(teacher, other, f"the teacher `{name}`") for _, other in options.pairs]
        notes = same_network(module, teacher, options)
        network = trained_network(
            tapped(module, mine), options, context, kind=Tapped, own=tuple(info.name for info in module.outputs)
        )
        wanted = tuple(dict.fromkeys(value.name or "" for value in theirs))
        guidance, told = guidance_of(tapped(teacher, theirs), options, context, feeds, wanted)
        pairs = compared(
            network,
            guidance,
            context.split(options.data),
            module.inputs,
            tuple((one.name or "", other.name or "") for one, other in zip(mine, theirs, strict=True)),
            options,
        )
        objective = FeatureObjective(network, guidance, pairs, options, targets_loss(options, context))
        result, trained = train_network(module, network, objective, options, context)
        projected = [pair.told for pair in pairs if pair.told]
        notes = (*trained, Note(told), *((Note(f"projected: {'; '.join(projected)}"),) if projected else ()), *notes)
        if result.kept == 0:
            return PassResult(module, False, notes)
        write_back(network, module)
    module.touch()
    return PassResult(module, True, notes)
