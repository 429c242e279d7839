"""Learning rates as a function of the step alone, so that a resumed run needs no state for them."""

from __future__ import annotations

import math

from mopt.runtime.training.settings import Settings


def factor(settings: Settings, step: int, total: int) -> float:
    """Return what `settings.rate` is multiplied by at a step (0-based) of `total`.

    After the warm-up, with p the share that is done of what remains: `constant` 1; `linear` 1 − p; `cosine`
    (1 + cos πp) / 2 (Loshchilov & Hutter 2017, without restarts); `step` `drop` to the number of `drops` passed,
    these being shares of all steps.
    """
    warm = round(settings.warmup * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, total - warm)
    match settings.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return 1 - done
        case "step":
            return float(settings.drop ** sum(step >= share * total for share in settings.drops))
    return 1.0
