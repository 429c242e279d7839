"""`mopt show`, `mopt diff`, `mopt doctor`: looking at models, builds and this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

REFERENCE = (
    "A model is an ONNX file, or a step of a build: `build/quickstart/pruned` (its result), "
    "`build/quickstart/pruned@0` (what it started from), `build/quickstart/pruned@1` (after its first step)."
)


@click.command("show", epilog=REFERENCE)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--graph", is_flag=True, help="Print every node in the text form.")
@click.option(
    "--provenance", is_flag=True, help="With --graph: the source layers of each node, and the passes that made it."
)
@click.option(
    "--groups", is_flag=True, help="List the groups of channels that must be cut together, and what can't be."
)
@click.option("--all", "show_all", is_flag=True, help="Fold nothing.")
@click.option("--bind", multiple=True, metavar="DIM=SIZE", help="Size of a dynamic dimension, for MACs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_command(
    model: Path, graph: bool, provenance: bool, groups: bool, show_all: bool, bind: tuple[str, ...], as_json: bool
) -> int:
    """Show what MODEL is made of: interface, operators, cost, weights; or its nodes, or its groups of channels.

    For a TensorRT engine (`build/quickstart/float16/gpu/model.engine`): which source layers each of its layers fuses,
    at which precision. For a graph that TensorRT does not take whole (`…/gpu/model.parts.json`): its parts.
    """
    from mopt.cli.building import overrides, size_of
    from mopt.driver.references import load_reference
    from mopt.show.engine import SUFFIXES

    if provenance and not graph:
        raise click.UsageError("--provenance goes with --graph")
    if model.suffix in SUFFIXES:
        return _show_engine(model, show_all, as_json)
    if model.name.endswith(".parts.json"):
        return _show_parts(model, show_all, as_json)
    module = load_reference(model)
    if graph:
        from mopt.ir import print_module

        print(print_module(module, provenance=provenance))
        return 0
    if groups:
        from mopt.analysis.coupling import groups as groups_of

        found = groups_of(module)
        if as_json:
            print(json.dumps([group.to_json() for group in found], ensure_ascii=False, indent=1))
        else:
            print("\n".join(str(group) for group in found) or "no layer of this model makes channels")
        return 0
    from mopt.show import render_terminal, show

    sizes = {name: size_of(name, text) for name, text in overrides(bind, "--bind").items()}
    summary = show(module, bindings=sizes or None, label=str(model))
    if as_json:
        print(json.dumps(summary.to_json(), ensure_ascii=False, indent=1))
        return 0
    from rich.console import Console

    render_terminal(summary, Console(highlight=False), all=show_all)
    return 0


@click.command("diff", epilog=REFERENCE)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--all", "show_all", is_flag=True, help="Fold nothing.")
@click.option("--no-weights", is_flag=True, help="Do not compare the weights' values.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff_command(before: Path, after: Path, show_all: bool, no_weights: bool, as_json: bool) -> int:
    """Show what changed between two models, and which step changed it; of two engines, fusions and precisions."""
    from mopt.show.engine import SUFFIXES

    engines = [path.suffix in SUFFIXES for path in (before, after)]
    if all(engines):
        return _diff_engines(before, after, show_all, as_json)
    if any(engines):
        raise click.UsageError("an engine can only be compared with an engine: name the models that they come from")
    from mopt.diff import diff, render_terminal
    from mopt.driver.references import load_reference

    labels = (str(before), str(after))
    found = diff(load_reference(before), load_reference(after), weights=not no_weights, labels=labels)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
        return 0
    from rich.console import Console

    render_terminal(found, Console(highlight=False), all=show_all)
    return 0


def _show_engine(path: Path, show_all: bool, as_json: bool) -> int:
    from mopt.show.engine import render_engine, show_engine

    summary = show_engine(path)
    if as_json:
        print(json.dumps(summary.to_json(), ensure_ascii=False, indent=1))
        return 0
    from rich.console import Console

    render_engine(summary, Console(highlight=False), everything=show_all)
    return 0


def _show_parts(path: Path, show_all: bool, as_json: bool) -> int:
    from mopt.runtime.trt.parts import read_parts
    from mopt.show.parts import render_parts

    listed = read_parts(path)
    if as_json:
        print(json.dumps(listed, ensure_ascii=False, indent=1))
        return 0
    from rich.console import Console

    render_parts(path, listed, Console(highlight=False), everything=show_all)
    return 0


def _diff_engines(before: Path, after: Path, show_all: bool, as_json: bool) -> int:
    from mopt.diff.engines import capability_pair, diff_engines, render_engine_diff
    from mopt.show.engine import show_engine

    one, two = show_engine(before).layers, show_engine(after).layers
    first, second = capability_pair(one, two)
    labels = (f"{before} [{first}]", f"{after} [{second}]")
    found = diff_engines(one[first], two[second], labels)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
        return 0
    from rich.console import Console

    render_engine_diff(found, Console(highlight=False), everything=show_all)
    return 0


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> int:
    """Say which targets and frameworks work on this machine, and what to install for the others."""
    from mopt.runtime.doctor import report

    checks = report()
    if as_json:
        print(json.dumps([check.to_json() for check in checks], ensure_ascii=False, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for check in checks:
        style = {"ok": "green", "limited": "yellow", "missing": "red"}[check.state]
        detail = f"{check.detail}; {check.install}" if check.install else check.detail
        table.add_row(Text(check.state, style=style), Text(check.name, style="bold"), Text(detail))
    Console(highlight=False).print(table)
    return 0


COMMANDS = (show_command, diff_command, doctor_command)
