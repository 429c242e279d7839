"""Pruning in steps: a share more is pruned, the model is trained, and so on to the whole amount.

After Zhu & Gupta 2017, To prune, or not to prune (arXiv:1710.01878), and Han et al. 2015 (arXiv:1506.02626). Each step
is a run of `tune` of its own, its rate starting anew (rewinding: Renda et al. 2020, arXiv:2003.02389).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mopt.ir import IRError, Module, load, save
from mopt.passes.contract import Context, Note, PassResult, Progress, Promise
from mopt.passes.tune.training import training_errors
from mopt.passes.tune.tune import Tune

if TYPE_CHECKING:
    from mopt.passes.prune.gradual import Gradual


def shares(steps: int, schedule: str) -> tuple[float, ...]:
    """Return the share of the amount that is pruned after each step; the last is 1."""
    parts = [number / steps for number in range(1, steps + 1)]
    return tuple(part if schedule == "linear" else 1 - (1 - part) ** 3 for part in parts)


def gradually(
    module: Module,
    options: Gradual,
    context: Context,
    prune: Callable[[Module, float, Context], PassResult],
    promised: Callable[[Module, Module], Sequence[Promise]],
) -> PassResult:
    """Prune `module` in steps, training after each. Killed, the same command goes on at the step it was in.

    Args:
        prune: prunes a module in place until a share of the amount (1 for all) is gone, that of the model before the
            first step.
        promised: what training must hold of a module, given it before and after pruning (as `Pass.promises`).
    """
    assert options.steps is not None
    files = _Files(context.checkpoints, options.steps)
    done, modified, notes, module = files.last(module)
    last: tuple[Note, ...] = ()
    for number, share in enumerate(shares(options.steps, options.schedule), 1):
        if number <= done:
            continue
        part = _Part(context, number, options.steps)
        inside = cast(Context, part)
        before = module.clone()
        result = prune(module, share, inside)
        module = result.module
        part.promises = (*context.promises, *promised(before, module))
        trained = _train(module, options, inside)
        module, modified = trained.module, modified or result.modified or trained.modified
        head, *more = trained.notes
        text = f"step {number} of {options.steps}: {result.notes[0].message}; trained: {head.message}"
        notes += (dataclasses.replace(head, message=text), *more)
        # What was left alone, and why, is the same in every step.
        last = result.notes[1:]
        if number < options.steps:
            files.keep(number, modified, notes, module)
    return PassResult(module, modified, (*notes, *last))


def _train(module: Module, options: Gradual, part: Context) -> PassResult:
    assert options.data is not None and options.loss is not None
    tuning = Tune(
        data=options.data,
        loss=options.loss,
        epochs=options.epochs,
        batch=options.batch,
        rate=options.rate,
        schedule=options.rate_schedule,
        warmup=options.warmup,
        optimizer=options.optimizer,
        weight_decay=options.weight_decay,
        clip=options.clip,
        batchnorm=options.batchnorm,
        validation=options.validation,
        monitor=options.monitor,
        seed=part.seed,
    )
    with training_errors():
        return tuning.run(module, part)


class _Part:
    """The context of one step: checkpoints and seed of its own, and what it must hold; all else is the pass's."""

    def __init__(self, whole: Context, number: int, steps: int) -> None:
        self._whole, self._title = whole, f"step {number} of {steps}"
        self.seed = whole.seed + number
        self.checkpoints = whole.checkpoints / f"step-{number}"
        self.promises: tuple[Promise, ...] = whole.promises

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def progress(self, description: str, total: int | None = None) -> AbstractContextManager[Progress]:
        return self._whole.progress(f"{self._title}: {description}", total)


class _Files:
    """What finished steps left, for a run that goes on. Lost or damaged, the steps run again, to the same result."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps = folder, steps

    def last(self, module: Module) -> tuple[int, bool, tuple[Note, ...], Module]:
        """Return the last finished step, whether anything changed, its notes and its model."""
        for number in range(self._steps - 1, 0, -1):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IRError):
                record = json.loads((self._folder / f"pruned-{number}.json").read_text("utf-8"))
                notes = tuple(
                    Note(note["message"], note["severity"], tuple(note["nodes"]), note["figures"])
                    for note in record["notes"]
                )
                return number, bool(record["modified"]), notes, load(self._folder / f"pruned-{number}.onnx")
        return 0, False, (), module

    def keep(self, number: int, modified: bool, notes: Sequence[Note], module: Module) -> None:
        """Write a finished step: the model first, so that where the notes are it is, too."""
        if int(os.environ.get("RANK", "0")) > 0:
            return  # one of several processes that train together writes
        record: dict[str, Any] = {"modified": modified, "notes": [dataclasses.asdict(note) for note in notes]}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            save(module, self._folder / f"pruned-{number}.onnx", provenance=True)
            half = self._folder / f"pruned-{number}.part"
            half.write_text(json.dumps(record), "utf-8")
            half.replace(self._folder / f"pruned-{number}.json")
