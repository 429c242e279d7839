"""The row that speed-ups of a build refer to on a GPU: the source model in float16, timed beside the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mopt.build.outcome import Failure
from mopt.driver.half_baseline import precision_of

if TYPE_CHECKING:
    from mopt.build.artifacts import Emitted, Emitter
    from mopt.build.executor import Executor
    from mopt.plugin import Registry
    from mopt.store import Store


def half_rows(
    emitter: Emitter,
    emitted: Mapping[str, Emitted],
    bases: Mapping[str, str],
    *,
    executor: Executor,
    registry: Registry,
    store: Store,
) -> tuple[dict[str, Emitted], dict[str, str]]:
    """Return artifacts to time besides a build's own, and baselines that refer to them.

    On a target that runs on a GPU, a baseline that computes in float32 there is emitted in float16, too
    (`convert.float16`), and stands for it as `NAME in float16`. Where that fails, the baseline stays what it is, and
    its name says nothing else.

    Args:
        emitter: of the target.
        emitted: artifacts by row.
        bases: for each row, the one its ratio refers to.
        executor, registry, store: of the build.
    """
    if not emitter.declaration.target.runs_on_gpu():
        return {}, dict(bases)
    extra: dict[str, Emitted] = {}
    names: dict[str, str] = {}
    for base in dict.fromkeys(bases.values()):
        if precision_of(store.get_module(emitted[base].snapshot)) != "float32":
            continue
        operation = registry.get("passes", "convert.float16")()
        outcome = executor.apply(operation, emitted[base].snapshot, f"{base}→float16")
        if outcome.snapshot is None:
            continue
        name = f"{base} in float16"
        artifact = emitter.emit(outcome.snapshot, name)
        if not isinstance(artifact, Failure):
            extra[name], names[base] = artifact, name
    return extra, {row: names.get(base, base) for row, base in bases.items()}
