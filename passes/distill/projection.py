"""Linear maps from a student's features to the width of its teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mopt.passes.contract import PassError

_RIDGE = 1e-3
"""Of the mean square of a feature: what keeps the equations solvable where features are dead or equal."""


def fitted_projection(mine: torch.Tensor, theirs: torch.Tensor, axis: int) -> torch.nn.Linear:
    """Return the linear map, without bias, that comes closest to taking some features to others (ridge regression).

    Training starts from it: from a random map, the first thing a student that was pruned from its teacher would learn
    is to undo what it knows.

    Args:
        mine, theirs: features of the same samples, whose sizes differ along `axis`.
    """
    given, wanted = (features.movedim(axis, -1).flatten(0, -2).double() for features in (mine, theirs))
    gram = given.T @ given
    gram += torch.eye(len(gram), dtype=gram.dtype) * (_RIDGE * gram.diagonal().mean() + 1e-12)
    weights = torch.linalg.solve(gram, given.T @ wanted).T
    made = torch.nn.Linear(given.shape[1], wanted.shape[1], bias=False)
    with torch.no_grad():
        made.weight.copy_(weights)
    return made


def projected(by: torch.nn.Linear, features: torch.Tensor, axis: int) -> torch.Tensor:
    """Map features along an axis: a 1×1 convolution, wherever the channels stand."""
    mapped: torch.Tensor = by(features.movedim(axis, -1)).movedim(-1, axis)
    return mapped


def channel_axis(mine: Sequence[int], theirs: Sequence[int], pair: str) -> tuple[int, bool]:
    """Return the axis of the channels, and whether it needs a projection.

    Where widths differ it is the axis in which they do; else the second of images, the last of anything else.

    Raises:
        PassError: shapes differ in rank, in the batch, or in more than one axis.
    """
    rank = len(mine)
    differing = [at for at in range(min(rank, len(theirs))) if mine[at] != theirs[at]]
    if rank != len(theirs) or rank < 2 or len(differing) > 1 or 0 in differing:
        raise PassError(
            f"the features of {pair} have the shapes {list(mine)} and {list(theirs)}: only one axis, the channels, may "
            "differ",
            help="compare layers of equal resolution",
        )
    if differing:
        return differing[0], True
    return (1 if rank >= 4 else rank - 1), False
