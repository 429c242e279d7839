"""How far the outputs moved: a module against the one before it, on seeded inputs, under onnxruntime."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mopt.ir import Module

_KEPT = 4
"""Reference outputs held in memory; a parent is compared with many children."""


class DriftMeter:
    """Runs modules on the same seeded inputs and compares their outputs. Outputs of a snapshot are computed once.

    Args:
        seed: seed of the inputs.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._feeds: dict[str, list[tuple[dict[str, int], dict[str, Any]]]] = {}
        self._outputs: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()

    def measure(
        self, root: tuple[str, Module], before: tuple[str, Module], after: tuple[str, Module]
    ) -> dict[str, Any]:
        """Compare two modules, given with their digests; `root` is the source model, which decides the inputs.

        Returns:
            `max_rel`, `max_abs`, `cosine`, `worst` (the output), `problem` and `sizes` (of the dynamic
            dimensions, at the worst); or `unmeasured` with the reason, where onnxruntime can't run the model.
        """
        from mopt.runtime.compare import drift, worst_of
        from mopt.runtime.contract import RunError, TargetError

        try:
            feeds = self._inputs(*root)
            expected = self._run(*before, feeds)
        except (RunError, TargetError) as error:
            return {"unmeasured": f"the model before the step does not run: {error}"}
        try:
            actual = self._run(*after, feeds)
        except (RunError, TargetError) as error:
            return {"unmeasured": f"the model after the step does not run: {error}", "broken": True}
        found = [drift(old, new) for old, new in zip(expected, actual, strict=True)]
        worst = max(range(len(found)), key=lambda index: found[index].max_rel)
        return {**worst_of(found).to_json(), "sizes": feeds[worst][0]}

    def _inputs(self, digest: str, root: Module) -> list[tuple[dict[str, int], dict[str, Any]]]:
        from mopt.runtime.inputs import binding_sets, seeded_inputs

        if digest not in self._feeds:
            self._feeds[digest] = [
                (dict(sizes), seeded_inputs(root, sizes, seed=self._seed)) for sizes in binding_sets(root)
            ]
        return self._feeds[digest]

    def _run(
        self, digest: str, module: Module, feeds: list[tuple[dict[str, int], dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        from mopt.runtime.ort import cast_feeds
        from mopt.runtime.reference import reference

        if digest not in self._outputs:
            with reference(module) as runner:
                module.let_go()
                self._outputs[digest] = [runner.run(cast_feeds(arrays, runner.inputs)) for _, arrays in feeds]
            while len(self._outputs) > _KEPT:
                self._outputs.popitem(last=False)
        self._outputs.move_to_end(digest)
        return self._outputs[digest]
