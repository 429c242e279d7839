"""`mopt compile`, `mopt plan`, `mopt profile`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mopt.check import CheckResult

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

    options = CompileOptions(
        targets=targets, overrides=overrides(settings), output=output, store=store, only=only, profile=profile
    )
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
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--batch", "-b", "batches", type=click.IntRange(1), multiple=True, default=(1,), show_default=True)
@click.option("--runs", type=click.IntRange(2), default=50, show_default=True, help="Timed rounds.")
@click.option("--warmup", type=click.IntRange(0), default=5, show_default=True, help="Untimed rounds.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--provider", type=click.Choice(["cpu", "cuda", "tensorrt"]), default="cpu", show_default=True)
@click.option("--bind", multiple=True, metavar="DIM=SIZE", help="Size of a dynamic dimension.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def profile_command(
    models: tuple[Path, ...],
    batches: tuple[int, ...],
    runs: int,
    warmup: int,
    threads: int,
    provider: str,
    bind: tuple[str, ...],
    as_json: bool,
) -> int:
    """Time MODELS against each other in interleaved rounds (A B A B …). The first is the baseline.

    A model is an ONNX file, or a step of a build: `build/quickstart/pruned`, `build/quickstart/pruned@1`.
    """
    from mopt.driver.profiling import print_comparison, profile_models

    sizes = {name: _size(name, text) for name, text in overrides(bind, "--bind").items()}
    comparison = profile_models(models, batches, runs, warmup, threads, provider, sizes)
    if as_json:
        print(json.dumps(comparison.to_json(), ensure_ascii=False, indent=1))
    else:
        from rich.console import Console

        print_comparison(comparison, Console(highlight=False))
    return 0


def _size(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise click.UsageError(f"--bind {name}={text}: a size is a positive integer")
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
