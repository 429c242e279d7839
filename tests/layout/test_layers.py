"""Layers point one way, packages are listed, and generic names stay out of site-packages."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
MAPPING = PYPROJECT["package-dir"]

# Who may import whom, lowest first. A package may import those before it, itself, and what is named beside it.
LAYERS = [
    "values",
    "plugin",
    "fingerprint",
    "grammar",
    "ir",
    "rewrite",
    "analysis",
    "runtime",
    "passes",
    "recipe",
    "check",
    "store",
    "plan",
    "rendering",
    "diff",
    "show",
    "build",
    "report",
    "driver",
    "api",
    "cli",
]
# The language knows nothing of models; the checker knows passes by their contracts only.
FORBIDDEN = {
    "grammar": set(LAYERS) - {"grammar"},
    "rewrite": {"analysis"},
    "check": {"ir", "rewrite", "analysis"},
}


def package_files():
    for package, folder in MAPPING.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            yield name, path


FILES = [(name, path) for name, path in package_files() if not name.startswith("mopt.recipes")]


def layer_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def imports(path):
    """Module names imported, except those under `if TYPE_CHECKING:`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "mopt":
                for alias in node.names:
                    yield f"mopt.{alias.name}", node.lineno
            else:
                yield node.module, node.lineno


def test_the_tree_is_not_empty():
    assert len(FILES) > 60


@pytest.mark.parametrize(("name", "path"), FILES, ids=[name for name, _ in FILES])
def test_layers_point_one_way(name, path):
    mine = layer_of(name)
    if mine is None:
        return
    assert mine in LAYERS, f"{name}: add its layer to this test and to the architecture page"
    for imported, line in imports(path):
        other = layer_of(imported) if imported.split(".")[0] == "mopt" else None
        if other is None or other not in LAYERS:
            continue
        allowed = LAYERS.index(other) <= LAYERS.index(mine) and other not in FORBIDDEN.get(mine, set())
        assert allowed, f"{path.relative_to(ROOT)}:{line}: `{mine}` must not import `{other}` ({imported})"


def test_every_package_is_listed():
    on_disk = set()
    for package, folder in MAPPING.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            on_disk.add(".".join([package, *parts]))
    assert sorted(PYPROJECT["packages"]) == sorted(on_disk)


def test_every_folder_with_python_is_a_package():
    for name, path in FILES:
        assert (path.parent / "__init__.py").is_file(), f"{name}: {path.parent} has no __init__.py"


def test_top_level_is_fixed():
    allowed = {"compiler", "grammar", "passes", "recipes", "runtime", "tests", "docs", "build", "dist"}
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    assert {f for f in folders if not f.endswith(".egg-info")} <= allowed


def test_no_file_is_unreadably_long():
    long = [
        str(path.relative_to(ROOT)) for _, path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 500
    ]
    assert not long, "split before 500 lines"


def test_no_grab_bag_modules():
    bad = {"utils", "helpers", "common", "misc"}
    assert not [name for name, _ in FILES if name.split(".")[-1] in bad]
