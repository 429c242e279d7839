"""The protocols of everything that feeds, runs or judges a module: sources, data, losses, metrics, targets.

Like pass modules, the modules that declare these are imported by `mopt check` and must stay cheap to import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from mopt.ir.module import Module

Sample = Mapping[str, Any]
"""One sample: numpy arrays without the batch axis, keyed by the model's input names, `target` beside them."""


class SourceError(Exception):
    """A model can't be loaded or converted. The message says what, where, and what to do."""


class DataError(Exception):
    """A data set is missing, empty, or does not fit the model. The message says what, where, what to do."""


class TargetError(Exception):
    """A target can't be used on this machine, or refuses the model. `missing` is True for the former."""

    def __init__(self, message: str, *, missing: bool = False, help: str | None = None) -> None:
        super().__init__(message)
        self.missing = missing
        self.help = help


class RunError(Exception):
    """A loaded model can't be run on the arrays it was given. The message names the input and what it expects."""


class Source:
    """Where a model comes from. A subclass is a frozen dataclass whose fields are the recipe's options."""

    name: ClassVar[str] = ""
    tools: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def load(self, scratch: Path, seed: int) -> SourceResult:
        """Lower the model to IR and, where a framework is involved, compare the two on seeded inputs.

        Raises:
            SourceError: it can't be loaded, converted, or the converted model disagrees.
        """
        raise TypeError(f"{type(self).__name__} does not implement load")

    def eager(self, threads: int = 1, *, gpu: bool = False) -> Runner:
        """Return the model as its own framework runs it, in this process: what a speed-up over it refers to.

        Args:
            threads: on the CPU.
            gpu: run it on the GPU, in float16.

        Raises:
            SourceError: it can't be loaded, or comes from no framework.
            TargetError: the framework can't use a GPU here (`missing`).
        """
        del threads, gpu
        raise SourceError(f"a model of `{self.name}` has no framework of its own to run it")


@dataclass(frozen=True)
class SourceResult:
    """A lowered model and what a reader should know of it (exporter chosen, measured agreement)."""

    module: Module
    notes: tuple[str, ...] = ()


class Split(Protocol):
    """The samples of one split. Iterating twice gives the same samples in the same order."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...

    def batches(self, size: int) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
        """Yield samples stacked along a new first axis; samples of unequal shape come in batches of one shape."""


class DataSource:
    """A data set of a recipe. A subclass is a frozen dataclass whose fields are the recipe's options."""

    name: ClassVar[str] = ""
    tools: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    synthetic: ClassVar[bool] = False

    def splits(self, seed: int) -> Mapping[str, Split]:
        """Open the data set.

        Raises:
            DataError: it can't be opened or is not what a data set must be.
        """
        raise TypeError(f"{type(self).__name__} does not implement splits")


class Loss:
    """A differentiable loss over torch tensors. A subclass is a frozen dataclass."""

    name: ClassVar[str] = ""
    tools: ClassVar[tuple[str, ...]] = ("torch",)
    version: ClassVar[int] = 1

    def __call__(self, outputs: Mapping[str, Any], targets: Any) -> Any:
        """Return one number per batch as a scalar torch tensor."""
        raise TypeError(f"{type(self).__name__} is not callable")


class Metric:
    """A figure of merit over a whole split. A subclass is a frozen dataclass."""

    name: ClassVar[str] = ""
    tools: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    goal: ClassVar[Literal["min", "max"]] = "max"

    def start(self, module: Module | None = None) -> MetricState:
        """Begin one evaluation of a model; `module` is it, for metrics that read its metadata (a character set).

        Raises:
            DataError: something the metric was told to use is missing.
        """
        raise TypeError(f"{type(self).__name__} does not implement start")


class MetricState(Protocol):
    """One evaluation in progress."""

    def update(self, outputs: Mapping[str, np.ndarray[Any, Any]], targets: Sequence[Any]) -> None:
        """Take the outputs of one batch and the targets of its samples (`outputs[name][i]` answers `targets[i]`)."""

    def compute(self) -> float:
        """Return the figure over everything seen."""


class Runner(Protocol):
    """A loaded model that can be run."""

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run once; arrays by input name in, by output name out."""


@dataclass(frozen=True)
class Artifact:
    """What a target wrote for one pipeline.

    Attributes:
        path: the main file.
        files: every file that must travel with it, the main one included.
        bytes: their total size; `compressed` the same after a general-purpose compressor (zlib level 6).
        notes: what a reader should know.
    """

    path: Path
    files: tuple[Path, ...]
    bytes: int
    compressed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Availability:
    """Whether a target works here: can it emit, can it run (and be timed), and what to install otherwise."""

    can_emit: bool
    can_run: bool
    reason: str = ""
    install: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """What a recipe says of the sizes a model will be run at: the batches it profiles, and sizes by dimension."""

    batches: tuple[int, ...] = ()
    bind: Mapping[str, int] = field(default_factory=dict)


class Target:
    """A runtime that a module is emitted for. A subclass is a frozen dataclass whose fields are the options.

    `sized` says that what it emits depends on the sizes a model is run at; such a target is handed them.
    """

    sized: ClassVar[bool] = False

    name: ClassVar[str] = ""
    tools: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def available(self) -> Availability:
        """Look at this machine."""
        raise TypeError(f"{type(self).__name__} does not implement available")

    def runs_on_gpu(self) -> bool:
        """Tell whether what it emits runs on a GPU: the baseline of speed-ups is float16 there."""
        return False

    def prepare(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """Return the passes to run on a module before `emit`, as (registered name, options), in order.

        For what a target needs done to the graph itself (float16 for a strongly typed engine): targets can't
        import passes, so whoever emits runs them, by the registry, on a copy.
        """
        return ()

    def emit(self, module: Module, folder: Path, sizes: Sizes | None = None) -> Artifact:
        """Write the target's files into an existing empty folder.

        Args:
            module: what to emit.
            folder: where to.
            sizes: for a `sized` target, what the recipe says of them.

        Raises:
            TargetError: the target is missing, or refuses the model (naming the nodes).
        """
        raise TypeError(f"{type(self).__name__} does not implement emit")

    def open(self, artifact: Artifact) -> Runner:
        """Load what `emit` wrote.

        Raises:
            TargetError: it can't be run on this machine.
        """
        raise TypeError(f"{type(self).__name__} does not implement open")
