"""Every shipped recipe checks clean, stands in the canonical layout, and travels with the package."""

from __future__ import annotations

import fnmatch
import importlib.resources
import subprocess
import sys
import tomllib
from pathlib import Path

import mopt.recipes
import pytest
from mopt.check import check
from mopt.grammar.format import format_source

FOLDER = Path(mopt.recipes.__path__[0])
RECIPES = sorted(FOLDER.glob("*.mopt"))


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"crnn", "ocr", "quickstart", "vit"}
    assert importlib.resources.files("mopt.recipes").joinpath("quickstart.mopt").is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_checks_clean(path: Path) -> None:
    found = check(path, {})
    assert found.ok
    assert not found.diagnostics


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_stands_in_the_canonical_layout(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_source(text) == text


def test_every_file_a_recipe_needs_is_packaged() -> None:
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["mopt.recipes"]
    listed = subprocess.run(
        ["git", "ls-files", "."], cwd=FOLDER, capture_output=True, text=True, check=True
    ).stdout.splitlines()  # fmt: skip
    left = [name for name in listed if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert left == []


def test_the_recipes_stay_small() -> None:
    sizes = {path: path.stat().st_size for path in FOLDER.rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    for path, size in sizes.items():
        assert size < 1_400_000, path.name
    assert sum(sizes.values()) < 8_000_000


def test_the_code_of_a_recipe_imports_nothing_of_ours_but_in_training() -> None:
    """A user copies a recipe's folder and starts from it."""
    for path in FOLDER.glob("*/*.py"):
        if path.name != "train.py":
            assert "mopt" not in path.read_text(encoding="utf-8").replace(".mopt`", ""), path.name


def test_checking_a_recipe_imports_none_of_its_code() -> None:
    script = (
        "import sys; from pathlib import Path; from mopt.check import check;"
        f"assert all(check(Path(p), {{}}).ok for p in {[str(path) for path in RECIPES]!r});"
        "heavy = {'torch', 'tensorflow', 'keras', 'onnx', 'onnxruntime', 'numpy', 'sklearn', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
