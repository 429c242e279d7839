"""How errors leave the command line: one clear message and a documented exit status."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path


def status_of(error: Exception) -> int | None:
    """Print an error that mopt expects and return its exit status; None for any other."""
    from mopt.build.outcome import EXIT_FAILED, EXIT_TARGET, EXIT_USAGE
    from mopt.driver.compile import RecipeError
    from mopt.ir.errors import IRError
    from mopt.passes.contract import PassError
    from mopt.plugin import PluginError
    from mopt.runtime.contract import DataError, RunError, SourceError, TargetError
    from mopt.store import StoreError
    from mopt.values import LocationError

    status: int | None = None
    match error:
        case RecipeError():
            status = EXIT_USAGE
        case TargetError():
            status = EXIT_TARGET if error.missing else EXIT_USAGE
        case PluginError():
            status = EXIT_USAGE
        case PassError() | SourceError() | DataError() | RunError() | StoreError() | LocationError() | IRError():
            status = EXIT_FAILED
        case FileNotFoundError() | IsADirectoryError() | PermissionError() if error.filename:
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            return EXIT_USAGE
    if status is None:
        return None
    print(f"error: {error}", file=sys.stderr)
    if help := getattr(error, "help", None):
        print(f"  help: {help}", file=sys.stderr)
    return status


def report_unexpected(error: Exception) -> int:
    """Write the traceback to a file, say what to do with it, and return the exit status of a bug."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", prefix="mopt-bug-", delete=False, encoding="utf-8") as file:
        file.write(f"command: {sys.argv}\n")
        traceback.print_exception(error, file=file)
    first = (str(error).strip() or "no message").splitlines()[0]
    print(
        f"internal error: {type(error).__name__}: {first}\n"
        f"  This is a bug in mopt, not in your recipe. Please report it with {Path(file.name)} and the recipe.",
        file=sys.stderr,
    )
    return 70
