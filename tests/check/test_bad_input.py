"""Files that are no recipes, or hostile ones: a clear answer, quickly, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from mopt.check import check

GOOD = 'model crnn = onnx("m.onnx")\n\npipeline a = crnn {\n    prune.magnitude(amount=20%)\n}\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "m.onnx").touch()
    return tmp_path


@pytest.mark.parametrize(
    "data",
    [
        GOOD.encode(),
        GOOD.rstrip("\n").encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        GOOD.replace("    ", "\t").encode(),
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode() + b"\f\v\n\n\n",
    ],
    ids=["plain", "no-final-newline", "crlf", "cr", "tabs", "bom", "odd-blanks"],
)
def test_works(data, folder, fakes):
    path = folder / "a recipe é.mopt"
    path.write_bytes(data)
    result = check(path, {}, fakes)
    assert result.ok, result.diagnostics


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "E0408"),
        (b"\n\n", "E0408"),
        (b"\xef\xbb\xbf", "E0408"),
        ("# café".encode("latin-1"), "E0003"),
        (GOOD.encode("utf-16"), "E0003"),
        (GOOD.encode("utf-16-le"), "E0004"),
        (b"\0", "E0004"),
        (b'model a = onnx("x', "E0103"),
        (
            b'model a = onnx("m.onnx")\npipeline p = a { convert(extra=' + b"[" * 10_000 + b"]" * 10_000 + b") }",
            "E0105",
        ),
        (b"[" * 100_000, "E0101"),
        ("param a = \ud800".encode("utf-8", "surrogatepass"), "E0003"),
    ],
)
def test_is_refused(data, code, folder, fakes):
    path = folder / "bad.mopt"
    path.write_bytes(data)
    start = time.process_time()
    result = check(path, {}, fakes)
    assert time.process_time() - start < 3
    assert not result.ok
    assert result.recipe is None
    assert code in [one.code for one in result.diagnostics]
    for one in result.diagnostics:
        assert one.to_json()["path"] == str(path)


def test_missing_and_folder(folder, fakes):
    assert [one.code for one in check(folder / "none.mopt", {}, fakes).diagnostics] == ["E0001"]
    assert [one.code for one in check(folder / "no" / "none.mopt", {}, fakes).diagnostics] == ["E0001"]
    assert [one.code for one in check(folder, {}, fakes).diagnostics] == ["E0002"]
    assert [one.code for one in check(Path("/dev/null"), {}, fakes).diagnostics] == ["E0002"]


@pytest.mark.parametrize("path", ["\\u0000", "a" * 5000, "~nobody_of_this_name/x", "", ".."])
def test_odd_paths_in_options(path, folder, fakes):
    recipe = folder / "odd.mopt"
    recipe.write_text(f'import "{path}"\nmodel m = onnx("{path}")\npipeline p = m {{ }}\n')
    codes = {one.code for one in check(recipe, {}, fakes).diagnostics}
    assert codes & {"E0601", "E0602", "E0104"}


def test_imports_of_great_depth(folder, fakes):
    for index in range(100):
        (folder / f"r{index}.mopt").write_text(f'import "r{index + 1}.mopt"\n')
    (folder / "r100.mopt").write_text(GOOD)
    assert "E0602" in [one.code for one in check(folder / "r0.mopt", {}, fakes).diagnostics]


def _lines(count):
    lines = ['model crnn = onnx("m.onnx")', "pipeline original = crnn { }"]
    while len(lines) < count:
        number = len(lines)
        lines += [
            f"pipeline p{number} = original {{",
            '    prune.channels(amount=20%, criterion=l1, skip=["rnn*", "head*"])  # a comment',
            "    simplify()",
            "    require size <= 30% * original.size",
            "}",
        ]
    return "\n".join(lines) + "\n"


def test_fifty_thousand_lines(folder, fakes):
    path = folder / "long.mopt"
    path.write_text(_lines(50_000))
    start = time.process_time()
    result = check(path, {}, fakes)
    assert result.ok
    assert time.process_time() - start < 30  # 5 s on an idle core


def test_a_chain_of_ten_thousand_pipelines(folder, fakes):
    chain = "".join(f"pipeline p{number + 1} = p{number} {{ simplify() }}\n" for number in range(10_000))
    path = folder / "chain.mopt"
    path.write_text('model p0 = onnx("m.onnx")\n' + chain)
    assert check(path, {}, fakes).ok
    path.write_text(chain + "pipeline p0 = p10000 { }\n")
    assert [one.code for one in check(path, {}, fakes).diagnostics] == ["E0401"]


PROGRAM = """
import sys, time
from pathlib import Path
from mopt.check import check
from mopt.grammar import render
result = check(Path(sys.argv[1]))
sys.stdout.write(render(result.diagnostics))
heavy = {"torch", "tensorflow", "onnxruntime", "onnx", "onnx_ir", "networkx", "numpy", "lark", "sklearn"}
heavy &= set(sys.modules)
print(time.process_time(), *sorted(heavy))
"""


@pytest.mark.parametrize(("count", "budget"), [(10, 0.3), (500, 0.5)])
def test_cpu_and_imports_of_a_check(count, budget, folder):
    path = folder / "r.mopt"
    path.write_text(_lines(count).replace("prune.channels(amount=20%, criterion=l1", "prune.magnitude(amount=20%"))
    seconds, heavy = [], set()
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True)
        first, *names = run.stdout.splitlines()[-1].split()
        assert len(run.stdout.splitlines()) == 1, run.stdout
        seconds.append(float(first))
        heavy |= set(names)
    assert not heavy
    assert min(seconds) < budget
