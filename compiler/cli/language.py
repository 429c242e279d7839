"""`mopt check`, `mopt fmt`, `mopt explain`, `mopt passes`: what needs the language alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from mopt.cli.building import SET, overrides, show_diagnostics


@click.command("check")
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@SET
@click.option("--json", "as_json", is_flag=True, help="Print the diagnostics as JSON.")
def check_command(recipes: tuple[Path, ...], settings: tuple[str, ...], as_json: bool) -> int:
    """Check RECIPES without running anything; every error of a recipe is reported in one run."""
    from mopt.check import check

    results = [check(recipe, overrides(settings)) for recipe in recipes]
    if as_json:
        found = [diagnostic.to_json() for result in results for diagnostic in result.diagnostics]
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        for recipe, result in zip(recipes, results, strict=True):
            if result.diagnostics:
                show_diagnostics(result)
            if result.ok:
                print(f"{recipe}: ok")
    return 0 if all(result.ok for result in results) else 2


@click.command("fmt")
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit with 1 if a file would change.")
@click.option("--diff", "show_diff", is_flag=True, help="Change nothing; print what would change.")
def fmt_command(recipes: tuple[Path, ...], only_check: bool, show_diff: bool) -> int:
    """Rewrite RECIPES in the canonical layout; comments are kept. `-` reads standard input."""
    from mopt.grammar import ParseError, decode, format_source, read, render
    from mopt.store.files import write_atomically

    changed, wrong = 0, 0
    for recipe in recipes:
        from_stdin = str(recipe) == "-"
        source, diagnostics = decode(sys.stdin.buffer.read(), "<stdin>") if from_stdin else read(recipe)
        try:
            if source is None:
                raise ParseError(diagnostics)
            text = format_source(source.text, source.path)
        except ParseError as error:
            print(render(error.diagnostics, color=sys.stderr.isatty()), file=sys.stderr, end="")
            wrong += 1
            continue
        if from_stdin and not (only_check or show_diff):
            sys.stdout.write(text)
            continue
        raw = source.text.encode() if from_stdin else recipe.read_bytes()
        if text.encode() == raw:
            continue
        changed += 1
        if show_diff:
            import difflib

            old = raw.decode("utf-8", "replace").splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(old, text.splitlines(keepends=True), str(recipe), str(recipe)))
        elif only_check:
            print(f"{recipe}: would be reformatted")
        else:
            write_atomically(recipe, text.encode())
            print(f"{recipe}: reformatted")
    if wrong:
        return 2
    return 1 if changed and (only_check or show_diff) else 0


@click.command("explain")
@click.argument("code", required=False)
@click.option("--rule", metavar="NAME", help="Explain why a rewrite rule does or does not fire on MODEL.")
@click.argument("model", required=False, type=click.Path(path_type=Path))
def explain_command(code: str | None, rule: str | None, model: Path | None) -> int:
    """Explain a diagnostic CODE at length; or, with --rule NAME, a rule's nearest miss on a model."""
    if rule is not None:
        path = Path(code) if model is None and code is not None else model
        if path is None:
            raise click.UsageError("--rule needs a model: mopt explain --rule NAME model.onnx")
        from mopt.driver.references import load_reference
        from mopt.passes.simplify.selection import explain_rule

        try:
            print(explain_rule(rule, load_reference(path)))
        except KeyError as error:
            raise click.UsageError(str(error.args[0])) from error
        return 0
    from mopt.grammar import explain
    from mopt.grammar.codes import CATALOGUE

    if code is None:
        for known, title in CATALOGUE.items():
            print(f"{known}  {title}")
        return 0
    if code.upper() not in CATALOGUE:
        raise click.UsageError(f"no diagnostic has the code `{code}`; `mopt explain` lists them all")
    print(explain(code.upper()))
    return 0


@click.command("passes")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def passes_command(name: str | None, as_json: bool) -> int:
    """List the passes, or describe one: options, types, defaults, source, contract."""
    from mopt.cli.catalogue import describe_pass, list_passes

    if name is None:
        list_passes(as_json=as_json)
        return 0
    return describe_pass(name, as_json=as_json)


COMMANDS = (check_command, fmt_command, explain_command, passes_command)
