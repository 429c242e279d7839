"""How far a student's outputs are from its teacher's, as losses over torch tensors."""

from __future__ import annotations

import torch
from torch.nn import functional


def class_divergence(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, axis: int = -1
) -> torch.Tensor:
    """Return KL(teacher ‖ student) of softened classes, in nats, mean over all other axes, times temperature².

    Hinton et al. 2015: the factor keeps the gradient's size where the temperature changes.

    Args:
        student, teacher: logits of one shape (log-probabilities do as well).
        axis: the classes'.
    """
    return _per_row(student, teacher, temperature, axis).mean() * temperature**2


def sequence_divergence(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, blank: int = 0, floor: float = 0.1
) -> torch.Tensor:
    """Return KL(teacher ‖ student) at the time steps of sequences trained with CTC, steps of blanks counting less.

    CTC's outputs are spikes between blanks: a plain mean over time is a loss over blanks. Here a step weighs
    floor + (1 - floor) · (1 - p(blank)), p being the teacher's, and the weights of a sample sum to one. Where the
    student has more or fewer steps, the teacher's classes are interpolated linearly to the student's, so that a spike
    stands at the same share of the sequence.

    Args:
        student: logits, f32[N, T, C].
        teacher: logits, f32[N, T', C].
        blank: the blank's class.
        floor: weight of a step that is surely blank.
    """
    if teacher.shape[1] != student.shape[1]:
        spread = functional.interpolate(
            teacher.softmax(-1).transpose(1, 2), student.shape[1], mode="linear", align_corners=False
        )
        teacher = spread.transpose(1, 2).clamp_min(torch.finfo(spread.dtype).tiny).log()
    weights = floor + (1 - floor) * (1 - teacher.softmax(-1)[..., blank])
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    rows = _per_row(student, teacher, temperature, -1)
    return (weights * rows).sum(1).mean() * temperature**2


def relative_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return ‖student - teacher‖² / ‖teacher‖²: 1 for a student that says nothing, whatever the features' size."""
    return functional.mse_loss(student, teacher) / teacher.square().mean().clamp_min(1e-12)


def direction_error(student: torch.Tensor, teacher: torch.Tensor, axis: int) -> torch.Tensor:
    """Return 1 - cosine along an axis, mean over all others."""
    return (1 - functional.cosine_similarity(student, teacher, dim=axis, eps=1e-6)).mean()


def as_logits(tensor: torch.Tensor, kind: str) -> torch.Tensor:
    """Return logits of an output that is `logits` or `probabilities`."""
    return tensor.clamp_min(torch.finfo(tensor.dtype).tiny).log() if kind == "probabilities" else tensor


def _per_row(student: torch.Tensor, teacher: torch.Tensor, temperature: float, axis: int) -> torch.Tensor:
    given = (student / temperature).log_softmax(axis)
    wanted = (teacher / temperature).log_softmax(axis)
    return functional.kl_div(given, wanted, reduction="none", log_target=True).sum(axis)
