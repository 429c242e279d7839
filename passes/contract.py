"""What a pass is: a frozen dataclass whose fields are its recipe options.

Importing a pass module must stay cheap (no onnx, numpy, torch …): `mopt check` imports it. Heavy packages are
imported inside `run`, or in modules that `run` imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from mopt.values import DataRef, LossRef, MetricRef, ModelRef

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.contract import Loss, Metric, Split


class PassError(Exception):
    """A pass can't do what it was asked for. The message says why, on which node, and what to do."""

    def __init__(self, message: str, *, node: str | None = None, help: str | None = None) -> None:
        super().__init__(message)
        self.node = node
        self.help = help


@dataclass(frozen=True)
class Note:
    """Something a reader of the report should know: a node skipped and why, a tool dropped.

    `figures` holds numbers behind the message (a loss curve) as JSON data; they go into `results.json`.
    """

    message: str
    severity: Literal["info", "warning"] = "info"
    nodes: tuple[str, ...] = ()
    figures: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PassResult:
    """What a pass returns: the module after it, whether anything changed, and its notes."""

    module: Module
    modified: bool
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Sparsity:
    """Promise: at least the given share of the elements of the named weights is zero.

    `weights` holds, for each pruned weight, its name, its number of elements and its promised share of zeros.
    Kept by whatever follows unless it declares `breaks = ("sparsity",)`.
    """

    weights: tuple[tuple[str, int, float], ...]
    kind: ClassVar[str] = "sparsity"


@dataclass(frozen=True)
class Clusters:
    """Promise: each of the named weights has at most so many different values.

    `weights` holds, for each clustered weight, its name, its number of elements and its promised number of values.
    `slices` names those of them whose number is one slice's: name, axis, rows (the axis moved to the front, then
    reshaped to so many rows). Kept by whatever follows unless it declares `breaks = ("clusters",)`.
    """

    weights: tuple[tuple[str, int, int], ...]
    slices: tuple[tuple[str, int, int], ...] = ()
    kind: ClassVar[str] = "clusters"


Promise = Sparsity | Clusters


class Progress(Protocol):
    """A progress bar of one activity."""

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""

    def describe(self, text: str) -> None:
        """Change the text beside the bar."""


class Context(Protocol):
    """What a pass may ask of the compiler while it runs."""

    @property
    def seed(self) -> int:
        """The recipe's seed; the only source of randomness a pass may use."""

    @property
    def bindings(self) -> Mapping[str, int]:
        """Sizes for dynamic dimensions, by name, where a pass has to run the model."""

    @property
    def scratch(self) -> Path:
        """An empty folder, removed when the step ends."""

    @property
    def checkpoints(self) -> Path:
        """A folder of this step alone (it need not exist yet), kept until the step succeeds.

        A killed or interrupted step finds it again when the same command is run again.
        """

    @property
    def promises(self) -> tuple[Promise, ...]:
        """What earlier steps promised and this one must keep."""

    def loss(self, reference: LossRef) -> Loss:
        """Return a declared or built-in loss."""

    def metric(self, reference: MetricRef) -> tuple[Metric | Loss, Literal["min", "max"]]:
        """Return a declared or built-in metric (or a loss that serves as one), and which direction is better."""

    def split(self, reference: DataRef) -> Split:
        """Return the samples a data reference names."""

    def module(self, name: str) -> Module:
        """Return a declared model or an earlier pipeline's result (a teacher)."""

    def recordings(self, model: ModelRef, data: DataRef) -> Path:
        """Return a folder for what follows from a model's result and data alone (a teacher's outputs).

        It need not exist yet. It outlives the step, and every step with an equal model and equal data gets the same
        one: what is written there is found again. Several processes may use it at once.
        """

    def progress(self, description: str, total: int | None = None) -> AbstractContextManager[Progress]:
        """Open a progress bar."""


class Pass:
    """Base of all passes. A subclass is a frozen dataclass, decorated with `@register("family.technique")`.

    Class attributes:
        name: set by `register`.
        source: the paper or specification, for `mopt passes NAME`.
        version: raised when the result for the same input changes, so that caches do not serve the old one.
        tools: installed packages whose versions decide the result (they enter the cache key).
        equivalence: the largest relative error of the outputs against the module before the pass, checked on
            seeded inputs after it ran; None for a lossy pass, whose drift is measured and reported only.
        dtypes_may_change: True if the pass may change the interface's element types.
        specialises: True if the model is afterwards right for some of its sizes or values alone: dynamic sizes may
            become fixed ones.
        incomparable: why onnxruntime can't compare its outputs with those before; empty where it can.
        gives: kinds of promise this pass makes (`"sparsity"`, `"clusters"`), for the static checker.
        breaks: kinds of promise of earlier passes that do not hold after it.
        needs_float: it can't work on a graph that is quantised already.
        needs_dense: it can't work on weights that are stored as codebooks.
        packs: it stores weights as codebooks.
        unpacks: it writes weights that are stored as codebooks out.
        quantizes: it leaves a quantised graph.
        trains: it trains (and so can't follow a pass with `quantizes`). Where several processes train together
            (`accelerate launch`), all of them run it, and no other pass.
        holds_grids: it trains a quantised graph on its grids, which are the same afterwards (so it can follow a pass
            with `quantizes` after all); that is checked.
        stands_on: further packages of mopt whose code decides the result (`"runtime.training"`), beside the pass's
            own folder and the parts that every pass stands on; they enter the cache key.
    """

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ()
    equivalence: ClassVar[float | None] = None
    dtypes_may_change: ClassVar[bool] = False
    specialises: ClassVar[bool] = False
    incomparable: ClassVar[str] = ""
    gives: ClassVar[tuple[str, ...]] = ()
    breaks: ClassVar[tuple[str, ...]] = ()
    needs_float: ClassVar[bool] = False
    needs_dense: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    unpacks: ClassVar[bool] = False
    quantizes: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    holds_grids: ClassVar[bool] = False
    stands_on: ClassVar[tuple[str, ...]] = ()

    def run(self, module: Module, context: Context) -> PassResult:
        """Rewrite `module` (which the pass owns and may change in place) and return the result.

        Deterministic given the module, the options, the data and the seed.

        Raises:
            PassError: the pass can't do what it was asked for.
        """
        raise TypeError(f"{type(self).__name__} does not implement run")

    def promises(self, before: Module, after: Module) -> tuple[Promise, ...]:
        """Return what this pass now guarantees; checked at once, and after every later pass that must keep it."""
        del before, after
        return ()
