"""How important each channel of a group is, over all the weights that it goes through."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
from mopt.analysis.coupling import Group, Member
from mopt.passes.contract import PassError
from mopt.rewrite.constants import stored_tensor
from numpy.typing import NDArray

Scores = NDArray[np.float64]

_KERNEL: Final = frozenset({"out", "in", "gates", "embedding"})


def importance(group: Group, criterion: str, seed: int) -> Scores | None:
    """Return a score for each channel of a group, or None where the criterion has nothing to go by.

    - `l1`, `l2`: the norm of a channel's slice in every kernel that makes or reads it, over that kernel's mean,
      averaged over the kernels (Li et al. 2017, Pruning Filters for Efficient ConvNets; normalised as in
      DepGraph).
    - `fpgm`: the sum of distances from the group's other slices, in the kernels that make it (He et al. 2019, Filter
      Pruning via Geometric Median); what the others could stand for is close to them.
    - `bn`: |γ| of the batch normalisations (Liu et al. 2017, Network Slimming).
    - `random`: uniform, drawn from the recipe's seed and the group's name.

    Raises:
        PassError: a weight holds a NaN or an infinity.
    """
    if criterion == "random":
        digest = hashlib.sha256(group.name.encode()).digest()
        return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")]).random(group.channels)
    parts = []
    for member in group.members:
        array = _array(member)
        if criterion == "bn":
            if "gamma" in member.roles:
                parts.append(_sum(member, np.abs(array).reshape(-1), group.channels))
        elif criterion == "fpgm":
            if member.makes:
                parts.append(_mean_one(_distances(member, array, group.channels)))
        elif _KERNEL & set(member.roles):
            power = 1 if criterion == "l1" else 2
            others = tuple(axis for axis in range(array.ndim) if axis != member.axis)
            norm = _sum(member, (np.abs(array) ** power).sum(axis=others), group.channels) ** (1 / power)
            parts.append(_mean_one(norm))
    if not parts:
        return None
    scores: Scores = np.mean(parts, axis=0)
    return scores


def _array(member: Member) -> NDArray[Any]:
    tensor = stored_tensor(member.value)
    assert tensor is not None
    array: NDArray[Any] = np.asarray(tensor.numpy(), np.float64)
    if not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "infinite values"
        reader = member.layers[0] if member.layers else None
        raise PassError(
            f"weight `{member.value.name}`{f' of layer `{reader}`' if reader else ''} holds {what}, "
            "which have no magnitude to rank",
            node=reader,
            help=f'mend the model, or leave the layer out with skip=["{reader or member.value.name}"]',
        )
    return array


def _sum(member: Member, by_index: NDArray[Any], channels: int) -> Scores:
    return np.bincount(member.atoms, weights=by_index[member.indices], minlength=channels).astype(np.float64)


def _mean_one(scores: Scores) -> Scores:
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


def _distances(member: Member, array: NDArray[Any], channels: int) -> Scores:
    """Return for each channel the sum of Euclidean distances of its slice to all others."""
    rows = np.moveaxis(array, member.axis, 0).reshape(array.shape[member.axis], -1)[member.indices]
    order = np.argsort(member.atoms, kind="stable")
    counts = np.bincount(member.atoms, minlength=channels)
    if counts.min() != counts.max():
        return _sum(member, np.linalg.norm(array.reshape(array.shape[member.axis], -1), axis=1), channels)
    slices = rows[order].reshape(channels, -1)
    squares = (slices**2).sum(axis=1)
    products = slices @ slices.T
    sums: Scores = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)).sum(axis=1)
    return sums
