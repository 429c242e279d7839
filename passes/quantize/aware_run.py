"""Quantisation-aware training of a module, from its float graph to one on trained grids."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassResult
from mopt.passes.tune.training import train_network, training_errors

if TYPE_CHECKING:
    from mopt.passes.quantize.aware import Aware
    from mopt.passes.quantize.aware_graph import Start
    from mopt.passes.quantize.aware_install import Installed


def quantize(module: Module, options: Aware, context: Context) -> PassResult:
    """Quantise and train `module`. See `Aware.run`."""
    with training_errors():
        from mopt.passes.quantize.aware_graph import prepare
        from mopt.passes.quantize.aware_install import Follow, install
        from mopt.passes.quantize.aware_objective import Matching, Teacher
        from mopt.passes.tune.promised import hold_zeros, sparse_weights
        from mopt.runtime.trainable.runner import TrainableModule
        from mopt.runtime.trainable.writing import write_back
        from mopt.runtime.training.objective import LossObjective

        teacher = None if options.teacher is None else Teacher(options.teacher.name, context, module)
        start = prepare(module, options, context)
        network = TrainableModule(
            start.module,
            batch_norm="train" if options.batchnorm == "train" else "frozen",
            freeze=options.skip,
            only=options.only,
            hold_zeros=False,
        )
        installed = install(network, start, options)
        hold_zeros(network, sparse_weights(start.module, context.promises))
        base = None if options.loss is None else LossObjective(context.loss(options.loss), options.loss.name)
        penalised = options.method == "pact" and options.clip_decay > 0
        objective = Matching(
            teacher, options.match, options.temperature, options.alpha, base,
            (lambda: options.clip_decay * installed.clips().square().sum()) if penalised else None,
        )  # fmt: skip
        hooks = [Follow(installed, options.freeze_ranges)]
        result, notes = train_network(start.module, network, objective, options, context, hooks=hooks)
        del result
        installed.settle()
        write_back(network, start.module)
    elements = finish(start, installed, options)
    return PassResult(start.module, True, (_said(start, options, elements), *notes, *_more(installed), *start.notes))


def finish(start: Start, installed: Installed, options: Aware) -> int:
    """Write what few bits need into the graph; return how many weights take half a byte."""
    from mopt.passes.quantize.aware_narrow import limit, pack

    limit(start.module, installed.narrow)
    few = [weight.stored for weight in start.weights.values() if weight.bits <= 4]
    packed = pack(start.module, few) if options.storage == "int4" else 0
    start.module.infer_shapes()
    return packed


def _said(start: Start, options: Aware, packed: int) -> Note:
    counts = Counter(unit.node.op_type for unit in start.units)
    listed = ", ".join(f"{count} {operator}" for operator, count in sorted(counts.items()))
    bits = Counter[int]()
    for weight in {weight.stored: weight for weight in start.weights.values()}.values():
        bits[weight.bits] += weight.content.size
    weights = ", ".join(f"{count:,} weights in {number} bits" for number, count in sorted(bits.items()))
    text = f"quantised {listed} by {options.method}: {weights}"
    if any(number < 8 for number in bits):
        text += f", {packed:,} of them in half a byte" if packed else ", each in a byte: the file is that of 8 bits"
    values = Counter(number for value, number in start.bits.items() if value not in start.moved)
    if any(number < 8 for number in values):
        text += "; activations: " + ", ".join(f"{count} in {number} bits" for number, count in sorted(values.items()))
    return Note(text)


def _more(installed: Installed) -> list[Note]:
    if not installed.fixed:
        return []
    return [Note(f"{installed.fixed} activations keep the range of calibration: their bytes are read on two grids")]
