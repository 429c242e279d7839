"""What a fingerprint must notice, and what must leave it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from mopt.fingerprint import FileHashes, fingerprint, fingerprint_files, python_files, tool_versions
from mopt.plugin import register
from mopt.values import Location, LocationError, PythonRef, TensorType


@register("toy")
@dataclass(frozen=True)
class Toy:
    model: PythonRef | Location
    weights: Location | None = None
    inputs: dict[str, TensorType] | None = None
    tools: ClassVar[tuple[str, ...]] = ("lark",)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def recipe(folder: Path) -> Toy:
    base = str(folder)
    return Toy(
        PythonRef(Location("nets/model.py", base), "Net"),
        Location("w.bin", base),
        {"image": TensorType("f32", ("N", 3))},
    )


FILES = {
    "nets/model.py": "import blocks\nfrom shared.layers import conv\nfrom . import near\nimport json\n",
    "nets/blocks.py": "import importlib\nimportlib.import_module('late')\n",
    "nets/near.py": "",
    "nets/unrelated.py": "",
    "late.py": "",
    "shared/__init__.py": "",
    "shared/layers.py": "from .deep.inner import thing\n",
    "shared/deep/inner.py": "thing = 1\n",
    "shared/other.py": "",
    "w.bin": "weights",
}


@pytest.mark.parametrize(
    "name",
    [
        "nets/model.py",
        "nets/blocks.py",
        "nets/near.py",
        "late.py",
        "shared/__init__.py",
        "shared/layers.py",
        "shared/deep/inner.py",
        "w.bin",
    ],
)
def test_every_dependency_counts(tmp_path: Path, name: str) -> None:
    write(tmp_path, FILES)
    before = fingerprint(recipe(tmp_path))
    (tmp_path / name).write_text(FILES[name] + "\n# edited\n", encoding="utf-8")
    assert fingerprint(recipe(tmp_path)) != before


@pytest.mark.parametrize("name", ["nets/unrelated.py", "shared/other.py"])
def test_other_files_do_not_count(tmp_path: Path, name: str) -> None:
    write(tmp_path, FILES)
    before = fingerprint(recipe(tmp_path))
    (tmp_path / name).write_text("# edited", encoding="utf-8")
    assert fingerprint(recipe(tmp_path)) == before


def test_place_and_time_do_not_count(tmp_path: Path) -> None:
    write(tmp_path / "a", FILES)
    write(tmp_path / "b", FILES)
    os.utime(tmp_path / "b" / "w.bin", (1, 1))
    assert fingerprint(recipe(tmp_path / "a")) == fingerprint(recipe(tmp_path / "b"))


def test_options_and_extra_count(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    toy = recipe(tmp_path)
    other = Toy(toy.model, toy.weights, {"image": TensorType("f32", ("N", 4))})
    assert len({fingerprint(toy), fingerprint(other), fingerprint(toy, extra={"seed": 1})}) == 3


def test_import_cycle_and_syntax_error(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "import b", "b.py": "import a\nimport c", "c.py": "def ("})
    assert [path.name for path in python_files(tmp_path / "a.py")] == ["a.py", "b.py", "c.py"]


def test_folder_counts_names_and_content_but_no_bytecode(tmp_path: Path) -> None:
    write(tmp_path / "saved", {"x": "1", "sub/y": "2"})
    before = fingerprint_files(tmp_path / "saved")
    write(tmp_path / "saved", {"__pycache__/x.pyc": "…"})
    assert fingerprint_files(tmp_path / "saved") == before
    (tmp_path / "saved" / "x").rename(tmp_path / "saved" / "z")
    assert fingerprint_files(tmp_path / "saved") != before


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocationError, match=r"gone\.bin"):
        fingerprint_files(Location("gone.bin", str(tmp_path)))


def test_remembered_hash_is_used_and_renewed(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(b"x" * (1 << 20))
    os.utime(big, (1000, 1000))
    store = tmp_path / "store" / "files.json"
    first = FileHashes(store)
    digest = first.of(big)
    first.save()
    # the same stamp answers from the store: the bytes are not read again
    store.write_text(store.read_text().replace(digest, "remembered"))
    assert FileHashes(store).of(big) == "remembered"
    big.write_bytes(b"y" * (1 << 20))
    os.utime(big, (1001, 1001))
    assert FileHashes(store).of(big) not in ("remembered", digest)


def test_damaged_store_is_ignored(tmp_path: Path) -> None:
    store = tmp_path / "files.json"
    for text in ("{", "[]", '{"a": 1}', '{"a": [1]}'):
        store.write_text(text)
        (tmp_path / "f").write_text("f")
        assert len(FileHashes(store).of(tmp_path / "f")) == 64


def test_tools_that_are_not_installed_have_no_version() -> None:
    assert tool_versions(("no-such-package-at-all",)) == {"no-such-package-at-all": ""}
    assert tool_versions(("lark",))["lark"]


def test_import_is_light() -> None:
    heavy = ["numpy", "onnx", "onnx_ir", "torch", "tensorflow", "onnxruntime", "networkx"]
    code = f"import sys, mopt.fingerprint; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
