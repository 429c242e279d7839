"""What a pass over weights says of those it left alone, of patterns that fit nothing, and of weights it can't rank."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from mopt.ir import Module
from mopt.ir.weights import Weight
from mopt.passes.contract import Note, PassError
from mopt.passes.prune.prunable import Candidate, matches
from mopt.passes.quantize.detect import first_quantized


def refuse_quantized(module: Module) -> None:
    """Refuse a graph whose weights are integers already: their zeros and channels belong to scales.

    Raises:
        PassError: naming the first quantised node.
    """
    if (node := first_quantized(module)) is not None:
        raise PassError(
            f"the graph is quantised already: node `{node.name}` is a {node.op_type}",
            node=node.name,
            help="prune before the quantiser: zeros stay zeros on its grid",
        )


def check_finite(weight: Weight) -> None:
    """Refuse a weight that holds a NaN or an infinity.

    Raises:
        PassError: naming the weight and a node that reads it.
    """
    array = weight.numpy()
    if np.isfinite(array).all():
        return
    what = "NaN" if np.isnan(array).any() else "infinite values"
    readers = [node.name for node, _ in weight.users if node.name]
    raise PassError(
        f"weight `{weight.name}`{f' of node `{readers[0]}`' if readers else ''} holds {what}",
        node=readers[0] if readers else None,
        help=f'mend the model, or leave it out with skip=["{weight.name}"]',
    )


def left_alone(reasons: Sequence[tuple[Weight, str]]) -> list[Note]:
    """Return one note a reason, with the number of weights and of their elements."""
    notes = []
    for reason in dict.fromkeys(reason for _, reason in reasons):
        group = [weight for weight, other in reasons if other == reason]
        size = sum(weight.size for weight in group)
        kind = "weight" if len(group) == 1 else "weights"
        names = tuple(weight.name for weight in group)
        notes.append(Note(f"{len(group)} {kind} ({size:,} elements) left alone: {reason}", nodes=names))
    return notes


def idle_patterns(found: Sequence[Candidate], only: Sequence[str], skip: Sequence[str]) -> list[Note]:
    """Return a warning for every pattern that fits nothing: a layer may have been renamed."""
    return [
        Note(f'`{option}=["{pattern}"]` matches no weight here', severity="warning")
        for option, patterns in (("only", only), ("skip", skip))
        for pattern in patterns
        if not any(matches((pattern,), candidate.layers) for candidate in found)
    ]


def nothing_to_do(
    found: Sequence[Candidate], only: Sequence[str], reasons: Sequence[tuple[Weight, str]], verb: str
) -> PassError:
    """Return the error of a pass that finds no weight to work on (`verb` is what can't be done to them: `pruned`)."""
    if only and not any(matches(only, candidate.layers) for candidate in found):
        names = list(dict.fromkeys(name for candidate in found for name in candidate.layers))
        close = difflib.get_close_matches(only[0], names, n=3, cutoff=0.3) or names[:3]
        patterns = ", ".join(f"`{pattern}`" for pattern in only)
        return PassError(
            f"`only` matches no weight: {patterns}",
            help=f"layers and weights here: {', '.join(close)}" if close else "the module has no float weights",
        )
    counts = Counter(reason for _, reason in reasons).most_common(3)
    why = "; ".join(f"{count} left out: {reason}" for reason, count in counts) or "it has no float weights"
    return PassError(f"no weight here can be {verb} ({why})")
