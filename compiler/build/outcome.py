"""What became of a step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mopt.passes.contract import Clusters, Note, Promise, Sparsity

EXIT_REQUIREMENT, EXIT_USAGE, EXIT_FAILED, EXIT_TARGET, EXIT_BUG, EXIT_INTERRUPTED = 1, 2, 3, 4, 70, 130
"""Exit statuses; 0 is done. See the language page."""


@dataclass(frozen=True)
class Failure:
    """Why a step, a pipeline or a row has no result.

    Attributes:
        kind: `source`, `pass`, `contract`, `data`, `refused` (a target does not take the model), `target` (a target
            is not there), `storage`, or `bug` (an error nobody expected).
        message: what happened, on which node.
        where: the place in the recipe.
        help: what to do.
        details: the path of a file with the traceback, for a bug.
    """

    kind: Literal["source", "pass", "contract", "data", "refused", "target", "storage", "bug"]
    message: str
    where: str = ""
    help: str = ""
    details: str = ""

    @property
    def exit_status(self) -> int:
        """The exit status that this failure asks for."""
        return {"target": EXIT_TARGET, "bug": EXIT_BUG}.get(self.kind, EXIT_FAILED)

    @staticmethod
    def of(error: Exception, where: str) -> Failure:
        """Describe an error that feeding, emitting or running is known to raise."""
        from mopt.runtime.contract import DataError, TargetError
        from mopt.store.files import StoreError
        from mopt.values import LocationError

        help = getattr(error, "help", None) or ""
        match error:
            case TargetError(missing=True):
                return Failure("target", str(error), where, help)
            case DataError() | LocationError():
                return Failure("data", str(error), where, help)
            case StoreError():
                return Failure("storage", str(error), where, help)
        return Failure("refused", str(error), where, help)


@dataclass(frozen=True)
class Outcome:
    """A finished or failed step.

    Attributes:
        snapshot: digest of the module after it; None where it failed.
        modified: the pass changed the module.
        seconds: how long the work took when it was done (also where it came from the store).
        cached: it came from the store.
        notes: what the pass had to say.
        drift: measured difference of the outputs from the step before; None where nothing was measured.
        promises: what holds after it, and must go on holding.
    """

    step: str
    snapshot: str | None
    modified: bool = True
    seconds: float = 0.0
    cached: bool = False
    notes: tuple[Note, ...] = ()
    drift: dict[str, Any] | None = None
    promises: tuple[Promise, ...] = ()
    failure: Failure | None = None

    def to_record(self) -> dict[str, Any]:
        """Return what the store keeps of it."""
        return {
            "snapshot": self.snapshot,
            "modified": self.modified,
            "seconds": round(self.seconds, 4),
            "notes": [asdict(note) for note in self.notes],
            "drift": self.drift,
            "promises": [promise_record(promise) for promise in self.promises],
        }

    @staticmethod
    def from_record(step: str, record: dict[str, Any]) -> Outcome:
        """Read back what the store kept."""
        return Outcome(
            step=step,
            snapshot=record["snapshot"],
            modified=record["modified"],
            seconds=record["seconds"],
            cached=True,
            notes=tuple(
                Note(n["message"], n["severity"], tuple(n["nodes"]), n.get("figures")) for n in record["notes"]
            ),
            drift=record["drift"],
            promises=tuple(_promise(entry) for entry in record["promises"]),
        )


def promise_record(promise: Promise) -> Any:
    """Return what the store keeps of a promise: a list of entries for sparsity, else its kind, too."""
    entries = [list(entry) for entry in promise.weights]
    if isinstance(promise, Sparsity):
        return entries
    return {"kind": promise.kind, "weights": entries, "slices": [list(entry) for entry in promise.slices]}


def _promise(record: Any) -> Promise:
    if isinstance(record, list):
        return Sparsity(tuple((name, size, share) for name, size, share in record))
    if record["kind"] == Clusters.kind:
        return Clusters(
            tuple((name, size, count) for name, size, count in record["weights"]),
            tuple((name, axis, rows) for name, axis, rows in record.get("slices", ())),
        )
    raise ValueError(f"no promise is of kind {record['kind']!r}")
