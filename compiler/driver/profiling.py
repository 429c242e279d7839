"""`mopt profile A B`: models timed against each other, without a recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.driver.references import load_reference
from mopt.report.table import milliseconds

if TYPE_CHECKING:
    from mopt.runtime.profiler import Timing
    from rich.console import Console


@dataclass(frozen=True)
class Comparison:
    """Timings by batch size and model; `baseline` is the first model."""

    baseline: str
    machine: Mapping[str, Any]
    timings: Mapping[int, Mapping[str, Timing]]
    sizes: Mapping[int, Mapping[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, times in seconds."""
        return {
            "baseline": self.baseline,
            "machine": dict(self.machine),
            "batches": {
                str(batch): {"sizes": dict(self.sizes[batch]), "models": {n: t.to_json() for n, t in timed.items()}}
                for batch, timed in self.timings.items()
            },
        }


def profile_models(
    paths: Sequence[Path],
    batches: Sequence[int],
    runs: int,
    warmup: int,
    threads: int,
    provider: Any,
    bind: Mapping[str, int],
) -> Comparison:
    """Time models in interleaved rounds on the same seeded inputs, those of the first one's interface.

    Raises:
        RunError: a model does not take the inputs, or its batch is fixed at another size.
        TargetError: onnxruntime refuses a model, or lacks the provider.
    """
    from mopt.build.timing import batch_feeds, machine_identity
    from mopt.runtime.contract import RunError
    from mopt.runtime.dimensions import dynamic_dimensions
    from mopt.runtime.ort import OrtRunner, cast_feeds
    from mopt.runtime.profiler import profile

    names = _names(paths)
    modules = {name: load_reference(path) for name, path in zip(names, paths, strict=True)}
    first = modules[names[0]]
    timings: dict[int, dict[str, Timing]] = {}
    sizes: dict[int, dict[str, int]] = {}
    with contextlib.ExitStack() as stack:
        runners = {
            name: stack.enter_context(OrtRunner(module, provider=provider, threads=threads))
            for name, module in modules.items()
        }
        for batch in dict.fromkeys(batches):
            arrays = batch_feeds(first, batch, bind, seed=0)
            if arrays is None:
                raise RunError(f"{paths[0]}: its batch is fixed; it does not take batch {batch}")
            feeds = {}
            for name, runner in runners.items():
                missing = [port.name for port in runner.inputs if port.name not in arrays]
                if missing:
                    raise RunError(f"{name}: its inputs {', '.join(missing)} are not inputs of {names[0]}")
                feeds[name] = cast_feeds(arrays, runner.inputs)
            timings[batch] = profile(runners, feeds, runs=runs, warmup=warmup, batch=batch, baselines=names[0])
            sizes[batch] = {d.key: int(arrays[d.places[0][0]].shape[d.places[0][1]]) for d in dynamic_dimensions(first)}
    machine = {**machine_identity(), "provider": provider, "threads": threads}
    return Comparison(names[0], machine, timings, sizes)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a table: a line for each model and batch size."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("batch", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for head in ("ms", "samples/s", "× A", "verdict"):
        table.add_column(head, justify="right", no_wrap=True)
    # Paths are long and columns narrow: models go by letters, explained below the table.
    letters = {name: _letter(number) for number, name in enumerate(next(iter(comparison.timings.values())))}
    for batch, timed in comparison.timings.items():
        for name, timing in timed.items():
            ratio = timing.ratio
            table.add_row(
                str(batch),
                letters[name],
                f"{milliseconds(timing.median * 1e3)} ±{milliseconds((timing.high - timing.low) / 2 * 1e3)}",
                f"{timing.throughput:,.0f}",
                f"{ratio.value:.3f} ±{(ratio.high - ratio.low) / 2:.3f}" if ratio else "1",
                ratio.verdict if ratio else "baseline",
            )
    console.print(table)
    for name, letter in letters.items():
        console.print(Text(f"{letter} = {name}"), soft_wrap=True)
    shown = ", ".join(f"{name}={size}" for name, size in next(iter(comparison.sizes.values())).items())
    machine = comparison.machine
    console.print(
        Text(
            f"{machine['processor']}, {machine['provider']}, {machine['threads']} thread(s); interleaved rounds, "
            f"median ± half its 95% interval; sizes: {shown or 'as declared'}",
            style="dim",
        )
    )


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"#{number + 1}"


def _names(paths: Sequence[Path]) -> list[str]:
    """Name models by their files, or by whole paths where files are named alike; one given twice gets a number."""
    names: list[str] = []
    alike = len({path.name for path in paths}) < len(set(paths))
    for path in paths:
        base = name = str(path) if alike else path.name
        number = 2
        while name in names:
            name, number = f"{base} ({number})", number + 1
        names.append(name)
    return names
