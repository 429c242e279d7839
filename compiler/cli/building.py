"""`mopt compile`, `mopt plan`, `mopt profile`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mopt.check import CheckResult
    from mopt.runtime.ort_options import GpuOptions

RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
SET = click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a `param` of the recipe.")
STORE = click.option("--store", type=click.Path(path_type=Path), help="Where results are kept. [$MOPT_STORE]")


@click.command("compile")
@RECIPE
@click.option("-t", "--target", "targets", multiple=True, help="A declared target, or a kind (`ort`, `trt`).")
@SET
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Output folder. [build/RECIPE]")
@STORE
@click.option("--only", multiple=True, metavar="GLOB", help="Only these pipelines.")
@click.option(
    "--profile",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Time the models: `auto` shows the last figures again while nothing changed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
def compile_command(
    recipe: Path,
    targets: tuple[str, ...],
    settings: tuple[str, ...],
    output: Path | None,
    store: Path | None,
    only: tuple[str, ...],
    profile: str,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compile RECIPE: run its pipelines, emit every result, measure, and print the results table."""
    from mopt.build.progress import reporter_for
    from mopt.driver import CompileOptions, RecipeError, compile_recipe
    from mopt.driver.launch import follow, is_follower

    options = CompileOptions(
        targets=targets, overrides=overrides(settings), output=output, store=store, only=only, profile=profile
    )
    if is_follower():
        return follow(recipe, options)
    reporter = reporter_for(quiet=quiet)
    try:
        results = compile_recipe(recipe, options, reporter)
    except RecipeError as error:
        reporter.close()
        if error.result is None:
            raise
        show_diagnostics(error.result, as_json=as_json)
        return 2
    finally:
        reporter.close()
    if as_json:
        print(json.dumps(results.to_json(), ensure_ascii=False, indent=1))
    else:
        from mopt.report import print_results
        from rich.console import Console

        print_results(results, Console(highlight=False))
    return results.exit_status


@click.command("plan")
@RECIPE
@SET
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan_command(recipe: Path, settings: tuple[str, ...], store: Path | None, as_json: bool) -> int:
    """Show the steps RECIPE needs, which are shared, and which are done already. Runs nothing."""
    from mopt.check import check
    from mopt.driver.planning import cached_steps
    from mopt.plan import make_plan
    from mopt.plan.render import plan_json, plan_tree

    result = check(recipe, overrides(settings))
    if result.recipe is None or not result.ok:
        show_diagnostics(result, as_json=as_json)
        return 2
    plan = make_plan(result.recipe)
    cached = cached_steps(plan, store)
    if as_json:
        print(json.dumps(plan_json(plan, cached), ensure_ascii=False, indent=1))
    else:
        from rich.console import Console

        Console(highlight=False).print(plan_tree(plan, cached))
    return 0


@click.command("profile")
@click.argument("models", nargs=-1, required=True)
@click.option("--batch", "-b", "batches", type=click.IntRange(1), multiple=True, default=(1,), show_default=True)
@click.option(
    "--sweep", multiple=True, metavar="DIM=SIZE,SIZE,…", help="Time at each of these sizes of a dynamic dimension."
)
@click.option("--bind", multiple=True, metavar="DIM=SIZE", help="Size of a dynamic dimension.")
@click.option("--runs", type=click.IntRange(2), default=20, show_default=True, help="Timed rounds, at least.")
@click.option("--warmup", type=click.IntRange(0), default=3, show_default=True, help="Untimed rounds, at least.")
@click.option(
    "--precision", type=click.FloatRange(0.0, 100.0), default=2.0, show_default=True,
    help="Go on until half of each ratio's interval is this small, in percent.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0.0), default=2.0, show_default=True, help="How long to go on for that, a size."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--provider", type=click.Choice(["cpu", "cuda", "tensorrt"]), default="cpu", show_default=True)
@click.option("--nodes", is_flag=True, help="Say where the time goes: by operator, mapped back to source layers.")
@click.option("--memory", is_flag=True, help="Load each model in a process of its own: load time, peak memory.")
@click.option("--energy", is_flag=True, help="Read the joules of a run off the GPU (needs nvidia-ml-py).")
@click.option("--throughput", is_flag=True, help="Double the batch while some model's samples a second grow.")
@click.option("--cuda-graph", is_flag=True, help="Record a run's kernels once, and launch them as one.")
@click.option("--chart", type=click.Path(path_type=Path, dir_okay=False), help="Draw a chart: .svg, .png or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def profile_command(
    models: tuple[str, ...],
    batches: tuple[int, ...],
    sweep: tuple[str, ...],
    bind: tuple[str, ...],
    runs: int,
    warmup: int,
    precision: float,
    seconds: float,
    threads: int,
    provider: str,
    nodes: bool,
    memory: bool,
    energy: bool,
    throughput: bool,
    cuda_graph: bool,
    chart: Path | None,
    as_json: bool,
) -> int:
    """Time MODELS against each other in interleaved rounds (A B, B A, …). The first is the baseline.

    A model is an ONNX file; a step of a build (`build/quickstart/pruned`, `build/quickstart/pruned@1`) or a whole build
    (`build/quickstart`, all its pipelines); an engine; or a model that a recipe declares, run by its own framework
    (`recipes/quickstart.mopt:digits`).
    """
    from mopt.driver.profile_chart import FORMATS, draw, require_matplotlib
    from mopt.driver.profiling import Request, profile_models

    if chart is not None and chart.suffix not in FORMATS:
        raise click.UsageError(f"--chart {chart}: a chart is written as {', '.join(FORMATS)}")
    if throughput and sweep:
        raise click.UsageError("--throughput: not with --sweep, since it looks for a batch at one size")
    if chart is not None:
        require_matplotlib()
    request = Request(
        models, batches, runs, warmup, precision / 100, seconds, threads, provider,
        {name: size_of(name, text) for name, text in overrides(bind, "--bind").items()},
        {name: [size_of(name, size.strip(), "--sweep") for size in text.split(",")]
         for name, text in overrides(sweep, "--sweep").items()},
        nodes, memory, energy, throughput, _gpu_options(provider, cuda_graph),
    )  # fmt: skip
    comparison = profile_models(request)
    if chart is not None:
        draw(comparison, chart)
    if as_json:
        print(json.dumps(comparison.to_json(), ensure_ascii=False, indent=1))
    else:
        from mopt.driver.profile_tables import print_comparison
        from rich.console import Console

        print_comparison(comparison, Console(highlight=False))
    return 0


def _gpu_options(provider: str, cuda_graph: bool) -> GpuOptions | None:
    from mopt.runtime.ort_options import GpuOptions

    if provider == "cpu" and cuda_graph:
        raise click.UsageError("--cuda-graph: not with --provider cpu")
    return None if provider == "cpu" else GpuOptions(cuda_graph=cuda_graph)


def size_of(name: str, text: str, option: str = "--bind") -> int:
    """Read the size of a dimension."""
    if not text.isdigit() or int(text) < 1:
        raise click.UsageError(f"{option} {name}={text}: a size is a positive integer")
    return int(text)


def overrides(settings: tuple[str, ...], option: str = "--set") -> dict[str, str]:
    """Split `NAME=VALUE` arguments."""
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"{option} {setting}: expected NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def show_diagnostics(result: CheckResult, *, as_json: bool = False) -> None:
    """Print what the checker found: text on standard error, JSON on standard output."""
    if as_json:
        print(json.dumps([d.to_json() for d in result.diagnostics], ensure_ascii=False, indent=1))
        return
    import shutil

    from mopt.grammar import render

    width = shutil.get_terminal_size((100, 24)).columns
    print(render(result.diagnostics, color=sys.stderr.isatty(), width=width), file=sys.stderr, end="")


COMMANDS = (compile_command, plan_command, profile_command)
