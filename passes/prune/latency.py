"""Timing a cut: the smaller model against the whole one, interleaved, on onnxruntime's CPU provider, one thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mopt.analysis.coupling import couplings
from mopt.ir import Module
from mopt.passes.contract import Context, PassError
from mopt.passes.prune.channels_cut import cut
from mopt.passes.prune.channels_select import Atoms
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.dimensions import dynamic_dimensions
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import profile

_SECONDS: Final = 1.5
"""Time to spend on one comparison, as far as the least number of rounds lets it."""
_ROUNDS: Final = (11, 101)


@dataclass(frozen=True)
class Measured:
    """Time relative to the whole model's: median of paired ratios and its 95 % interval; and a run's own time."""

    ratio: float
    low: float
    high: float
    milliseconds: float


class Stopwatch:
    """Times cuts of one module, at the sizes the recipe binds (others as `mopt.runtime.inputs` chooses them).

    Raises:
        PassError: the module does not run.
    """

    def __init__(self, module: Module, context: Context) -> None:
        self._module = module.clone()
        try:
            sizes = {**binding_sets(module)[0], **context.bindings}
            names = [dimension.key for dimension in dynamic_dimensions(module)]
            bound = {name: sizes[name] for name in names if name in sizes}
            self._feeds = seeded_inputs(module, bound, seed=context.seed)
            self._whole = OrtRunner(self._module)
            alone = profile({"whole": self._whole}, {"whole": self._feeds}, runs=5)["whole"].median
        except (RunError, TargetError) as error:
            raise PassError(f"the model can't be timed: {error}", help="use of=macs") from error
        least, most = _ROUNDS
        self._rounds = max(least, min(most, int(_SECONDS / (2 * alone))))

    def measure(self, atoms: Atoms) -> Measured:
        """Cut these atoms out of a copy, and time it."""
        smaller = self._module.clone()
        cut(smaller, couplings(smaller), atoms)
        with OrtRunner(smaller) as runner:
            timing = profile(
                {"whole": self._whole, "cut": runner},
                {"whole": self._feeds, "cut": self._feeds},
                runs=self._rounds,
                baselines={"cut": "whole"},
            )["cut"]
        assert timing.ratio is not None
        return Measured(timing.ratio.value, timing.ratio.low, timing.ratio.high, timing.median * 1e3)

    def close(self) -> None:
        """Let the whole model go."""
        self._whole.close()
