"""What `mopt profile` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mopt.report.table import milliseconds
from mopt.runtime.gpu import Missing
from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from mopt.driver.profiling import Comparison, Point
    from rich.console import Console

_SHOWN: Final = 15
"""Source layers listed of each model."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a line for each model and size, and tables of nodes and memory where they were asked for."""
    # Paths are long and columns narrow: models go by letters, explained below the table.
    letters = {name: _letter(number) for number, name in enumerate(comparison.runtimes)}
    console.print(_times(comparison, letters))
    if first := comparison.points[0].sizes:
        sizes = ", ".join(f"{name}={size}" for name, size in first.items())
        console.print(Text(f"sizes of the first row: {sizes}", "dim"), soft_wrap=True)
    for name, letter in letters.items():
        console.print(Text(f"{letter} = {name} ({comparison.runtimes[name]})"), soft_wrap=True)
    if len({point.batch for point in comparison.points}) > 1:
        for name, letter in letters.items():
            point = comparison.best(name)
            console.print(
                Text(f"{letter}: most samples a second at batch {point.batch}: {point.timings[name].throughput:,.0f}")
            )
    if comparison.stopped:
        console.print(Text(f"no larger batch: {comparison.stopped}"), soft_wrap=True)
    for name, placed in comparison.placements.items():
        if told := placed.told():
            console.print(Text(f"{letters[name]}: {told}", "yellow"), soft_wrap=True)
    _print_energy(comparison, letters, console)
    if comparison.footprints:
        console.print(_memory(comparison, letters))
    for name in comparison.nodes:
        _print_layers(comparison, name, letters[name], console)
    machine = comparison.machine
    console.print(
        Text(
            f"baseline: {comparison.stated}; {machine.get('gpu') or machine['processor']}, {machine['provider']}, "
            f"{machine['threads']} thread(s){_where(machine.get('cores'))}; interleaved rounds; "
            "median ± half its 95% interval; ratio ± half its 99% interval, which the verdict is read off",
            style="dim",
        )
    )


def _times(comparison: Comparison, letters: Mapping[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("size", no_wrap=True)
    table.add_column("model", no_wrap=True)
    batched = any(point.batch > 1 for point in comparison.points)
    for head in ("ms", "ms/sample" if batched else "samples/s", "× A", "verdict"):
        table.add_column(head, justify="right", no_wrap=True)
    for point in comparison.points:
        size = _size(comparison, point)
        for name, timing in point.timings.items():
            ratio = timing.ratio
            table.add_row(
                size,
                letters[name],
                f"{milliseconds(timing.median * 1e3)} ±{timing.spread:.1%}",
                milliseconds(timing.median / timing.batch * 1e3) if batched else f"{timing.throughput:,.0f}",
                f"{ratio.value:.3f} ±{(ratio.high - ratio.low) / 2:.3f}" if ratio else "1",
                ratio.verdict if ratio else "baseline",
            )
    return table


def _where(cores: Sequence[int] | None) -> str:
    return f" kept on core {', '.join(map(str, cores))}" if cores else ""


def _size(comparison: Comparison, point: Point) -> str:
    """Name a point by what differs between points: the batch, and sizes that do not follow it."""
    varying = [
        f"{name}={size}"
        for name, size in point.sizes.items()
        if len({other.sizes[name] for other in comparison.points}) > 1
        and any(other.sizes[name] != other.batch for other in comparison.points)
    ]
    if varying and len({other.batch for other in comparison.points}) == 1:
        return ", ".join(varying)
    return ", ".join([f"batch {point.batch}", *varying])


def _memory(comparison: Comparison, letters: Mapping[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    on_device = any(found.device_peak_bytes is not None for found in comparison.footprints.values())
    heads = ["load, ms", "first run, ms", "loaded, MiB", "peak, MiB"]
    for head in heads + (["GPU loaded, MiB", "GPU peak, MiB"] if on_device else []):
        table.add_column(head, justify="right", no_wrap=True)
    for name, found in comparison.footprints.items():
        table.add_row(
            letters[name], milliseconds(found.load_seconds * 1e3), milliseconds(found.first_seconds * 1e3),
            _mebibytes(found.loaded_bytes), _mebibytes(found.peak_bytes),
            *([_mebibytes(found.device_loaded_bytes), _mebibytes(found.device_peak_bytes)] if on_device else []),
        )  # fmt: skip
    return table


def _mebibytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:,.1f}"


def _print_energy(comparison: Comparison, letters: Mapping[str, str], console: Console) -> None:
    for name, found in comparison.energy.items():
        if isinstance(found, Missing):
            # One reason holds for all: it is the machine's.
            console.print(Text(f"energy: not measured: {found.reason} ({found.help})"), soft_wrap=True)
            return
        console.print(
            Text(
                f"{letters[name]}: {found.joules:.3g} J a run, {found.per_sample:.3g} J a sample "
                f"at batch {found.batch}, the whole board at {found.watts:.0f} W"
            ),
            soft_wrap=True,
        )


def _print_layers(comparison: Comparison, name: str, letter: str, console: Console) -> None:
    found = comparison.nodes[name]
    console.print(Text(f"{letter}: where the time goes, by source layer ({len(found.operators)} operators)", "bold"))
    layers = found.by_layer()
    for label, share in layers[:_SHOWN]:
        console.print(Text(f"  {share:6.1%}  {_shortened(label)}"), soft_wrap=True)
    rest = sum(share for _, share in layers[_SHOWN:])
    if len(layers) > _SHOWN:
        console.print(Text(f"  {rest:6.1%}  {len(layers) - _SHOWN} others"))
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in found.by_operator()[:8] if share >= 0.01)
    console.print(Text(f"  by operator: {kinds}"), soft_wrap=True)
    wanted = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}.get(
        str(comparison.machine["provider"])
    )
    if wanted and comparison.runtimes[name].startswith("onnxruntime") and (elsewhere := found.elsewhere(wanted)):
        share = sum(time.share for time in elsewhere)
        kinds = ", ".join(dict.fromkeys(f"{time.operator} ({time.provider})" for time in elsewhere))
        console.print(Text(f"  {len(elsewhere)} operators run elsewhere, {share:.0%} of the time: {kinds}", "yellow"))


def _shortened(label: str, most: int = 4) -> str:
    layers = label.split(" + ")
    return label if len(layers) <= most else f"{' + '.join(layers[:most])} + {len(layers) - most} more"


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"#{number + 1}"
