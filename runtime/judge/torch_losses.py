"""What the built-in losses compute."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import torch
from mopt.runtime.contract import DataError
from mopt.runtime.judge.chosen_output import pick
from mopt.runtime.user_code import load, running
from torch.nn import functional

if TYPE_CHECKING:
    from mopt.runtime.judge.losses import CrossEntropy, Ctc, KullbackLeibler, MeanSquaredError, PythonLoss


IGNORED: Final = -100
"""The class number of targets that do not count."""


def cross_entropy(loss: CrossEntropy, outputs: Mapping[str, Any], targets: Any) -> Any:
    """Classes along the second axis; targets are class numbers, or distributions of the outputs' shape."""
    scores = pick(outputs, loss.output)
    wanted = _numbers(targets, scores.device)
    if not wanted.is_floating_point():
        wanted = wanted.long()
        if wanted.dim() == scores.dim():
            wanted = wanted.squeeze(-1)
        _check_classes("cross_entropy", wanted[wanted != IGNORED], scores.shape[min(1, scores.dim() - 1)])
    if loss.kind == "probabilities":
        scores = torch.log(scores.clamp_min(torch.finfo(scores.dtype).tiny))
    return functional.cross_entropy(scores, wanted, label_smoothing=loss.smoothing, ignore_index=IGNORED)


def squared_error(loss: MeanSquaredError, outputs: Mapping[str, Any], targets: Any) -> Any:
    """Targets have the output's number of elements."""
    given = pick(outputs, loss.output)
    wanted = _numbers(targets, given.device).to(given.dtype)
    if wanted.numel() != given.numel():
        raise DataError(f"`mse`: targets have the shape {list(wanted.shape)}, the output {list(given.shape)}")
    return functional.mse_loss(given, wanted.reshape(given.shape))


def ctc(loss: Ctc, outputs: Mapping[str, Any], targets: Any) -> Any:
    """`torch.nn.functional.ctc_loss` over targets of any lengths."""
    scores = pick(outputs, loss.output)
    if scores.dim() != 3:
        raise DataError(f"`ctc` takes an output [batch, time, classes], not {list(scores.shape)}")
    scores = scores.transpose(0, 1) if loss.layout == "ntc" else scores
    if loss.kind == "logits":
        scores = scores.log_softmax(-1)
    elif loss.kind == "probabilities":
        scores = torch.log(scores.clamp_min(torch.finfo(scores.dtype).tiny))
    steps, count, classes = scores.shape
    blank = loss.blank % classes
    rows = [_labels(target, loss.charset, blank) for target in targets]
    if len(rows) != count:
        raise DataError(f"`ctc`: {len(rows)} targets for {count} samples; is `layout` {loss.layout}?")
    for at, row in enumerate(rows):
        _check_sequence(row, steps, classes, blank, f"target {at} of the batch")
    return functional.ctc_loss(
        scores,
        torch.cat([torch.as_tensor(row, dtype=torch.long) for row in rows]).to(scores.device),
        torch.full((count,), steps, dtype=torch.long),
        torch.tensor([len(row) for row in rows], dtype=torch.long),
        blank=blank,
        zero_infinity=True,
    )


def divergence(loss: KullbackLeibler, outputs: Mapping[str, Any], targets: Any) -> Any:
    """KL of distributions along the last axis."""
    given = pick(outputs, loss.output)
    wanted = _numbers(targets, given.device).to(given.dtype)
    if wanted.shape != given.shape:
        raise DataError(f"`kl`: targets have the shape {list(wanted.shape)}, the output {list(given.shape)}")
    if loss.kind == "probabilities":
        tiny = torch.finfo(given.dtype).tiny
        given, wanted = torch.log(given.clamp_min(tiny)), torch.log(wanted.clamp_min(tiny))
    given = (given / loss.temperature).log_softmax(-1)
    wanted = (wanted / loss.temperature).log_softmax(-1)
    per_row = functional.kl_div(given, wanted, reduction="none", log_target=True).sum(-1)
    return per_row.mean() * loss.temperature**2


def python_loss(loss: PythonLoss, outputs: Mapping[str, Any], targets: Any) -> Any:
    """Call the author's function."""
    function = _loaded(loss.ref)
    with running(loss.ref):
        value = function(dict(outputs), as_tensor(targets), **loss.args)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        shown = f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:80]
        raise DataError(f"`{loss.ref}` returned {shown}; a loss is one number as a torch tensor")
    return value.reshape(())


def as_tensor(targets: Any) -> Any:
    """Return targets as a tensor where they are numbers of one shape, else as a list."""
    if isinstance(targets, torch.Tensor):
        return targets
    if getattr(getattr(targets, "dtype", None), "kind", "O") in "biuf":
        return torch.as_tensor(targets)
    return list(targets)


@functools.cache
def _loaded(reference: Any) -> Any:
    return load(reference)


def _numbers(targets: Any, device: Any) -> Any:
    found = as_tensor(targets)
    if isinstance(found, list):
        try:
            found = torch.stack([torch.as_tensor(target) for target in found])
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"this loss needs numbers of one shape as targets: {error}") from error
    return found.to(device)


def _check_classes(loss: str, labels: Any, classes: int) -> None:
    """Refuse class numbers that are none; on a GPU they would end the process."""
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        wrong = int(labels.max()) if int(labels.max()) >= classes else int(labels.min())
        raise DataError(f"`{loss}`: the target {wrong} is no class; the output has {classes}, 0 to {classes - 1}")


def _check_sequence(row: Sequence[int], steps: int, classes: int, blank: int, what: str) -> None:
    """Refuse labels that are no classes, and a sequence that no path through the output's steps spells."""
    wrong = [label for label in row if not 0 <= label < classes or label == blank]
    if wrong:
        why = "the blank" if wrong[0] == blank else f"no class; the output has {classes}, 0 to {classes - 1}"
        raise DataError(f"`ctc`: {what} holds the label {wrong[0]}, which is {why}")
    # Between two equal labels there has to be a blank.
    needed = len(row) + sum(a == b for a, b in pairwise(row))
    if needed > steps:
        raise DataError(
            f"`ctc`: {what} has {len(row)} labels and needs {needed} steps, but the output has {steps}; "
            "leave such samples out, or feed wider inputs"
        )


def _labels(target: Any, charset: Sequence[str], blank: int) -> list[int]:
    if isinstance(target, str):
        characters = list(charset[0]) if len(charset) == 1 else list(charset)
        if not characters:
            raise DataError("`ctc`: targets are text; say which characters the classes are: `charset=[…]`")
        unknown = sorted(set(target) - set(characters))
        if unknown:
            raise DataError(f"`ctc`: the target {target!r} has {unknown[0]!r}, which is not in `charset`")
        return [at if at < blank else at + 1 for at in map(characters.index, target)]
    return [int(label) for label in torch.as_tensor(target).reshape(-1)]
