"""Link the folders under `build/typing/mopt` the way the installed package sees them, so that mypy can follow."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path


def link(root: Path) -> Path:
    """Rebuild the links and return the folder that holds `mopt/`."""
    mapping: dict[str, str] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]["package-dir"]
    base = root / "build" / "typing"
    shutil.rmtree(base, ignore_errors=True)
    top = base / "mopt"
    top.mkdir(parents=True)
    for child in (root / mapping["mopt"]).iterdir():
        if child.name != "__pycache__":
            (top / child.name).symlink_to(child)
    for package, folder in mapping.items():
        if package != "mopt":
            (top / package.removeprefix("mopt.")).symlink_to(root / folder)
    return base


if __name__ == "__main__":
    link(Path(__file__).resolve().parent.parent)
