"""A chart of a sweep: time a run and time a sample over the size that was swept, with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from mopt.runtime.contract import TargetError

if TYPE_CHECKING:
    from mopt.driver.profiling import Comparison

FORMATS: Final = (".svg", ".png", ".pdf")
_LOGARITHMIC: Final = 16
"""Sizes that differ by this factor are drawn on a logarithmic axis: doubled batches stand apart."""


def require_matplotlib() -> None:
    """Check that charts can be drawn, before anything is timed for one.

    Raises:
        TargetError: matplotlib is not installed.
    """
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise TargetError("a chart needs matplotlib", missing=True, help='pip install "mopt[charts]"')


def draw(comparison: Comparison, path: Path) -> None:
    """Write the chart as SVG, PNG or PDF, by the file's ending.

    The x axis is the dimension that takes most sizes, the batch where none takes more.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No clock and no random names in the file: the same figures draw the same bytes.
    matplotlib.rcParams["svg.hashsalt"] = "mopt"
    axis, others = _axis(comparison)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    series: dict[tuple[str, str], list[tuple[int, float, float, float, int]]] = {}
    for point in comparison.points:
        size = point.batch if axis == "batch" else point.sizes[axis]
        rest = ", ".join(f"{name}={point.sizes[name]}" for name in others)
        for name, timing in point.timings.items():
            series.setdefault((name, rest), []).append(
                (size, timing.median * 1e3, timing.low * 1e3, timing.high * 1e3, timing.batch)
            )
    for (name, rest), values in series.items():
        values.sort()
        label = f"{name} ({rest})" if rest else name
        sizes = [value[0] for value in values]
        for axes, divide in ((left, False), (right, True)):
            by = [value[4] if divide else 1 for value in values]
            middle = [value[1] / n for value, n in zip(values, by, strict=True)]
            down = [max(value[1] - value[2], 0.0) / n for value, n in zip(values, by, strict=True)]
            up = [max(value[3] - value[1], 0.0) / n for value, n in zip(values, by, strict=True)]
            axes.errorbar(sizes, middle, yerr=(down, up), marker="o", capsize=3, label=label)
    sizes = sorted({value[0] for values in series.values() for value in values})
    for axes, title in ((left, "ms a run"), (right, "ms a sample")):
        axes.set_xlabel(axis)
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        if sizes[-1] >= _LOGARITHMIC * sizes[0]:
            axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axes.grid(alpha=0.3)
    left.legend()
    machine = comparison.machine
    figure.suptitle(
        f"{machine.get('gpu') or machine['processor']}, {machine['provider']}, {machine['threads']} thread(s): "
        "medians and 95% intervals",
        fontsize=9,
    )
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _axis(comparison: Comparison) -> tuple[str, list[str]]:
    """Return what to draw over, and the dimensions that tell lines apart."""
    count = {"batch": len({point.batch for point in comparison.points})}
    for name in comparison.points[0].sizes:
        count[name] = len({point.sizes[name] for point in comparison.points})
    # A dimension that follows the batch is the batch.
    follows = [name for name in count if name != "batch"
               and all(point.sizes[name] == point.batch for point in comparison.points)]  # fmt: skip
    axis = max((name for name in count if name not in follows), key=lambda name: count[name])
    return axis, [name for name, sizes in count.items() if sizes > 1 and name not in (axis, "batch", *follows)]
