"""A package that is installed beside mopt extends it; a clash of names is an error that names both."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent / "example"

RECIPE = """
model linear = example(size=6)
data noise = random(samples=8)
evaluate(data=noise, metrics=[largest])
pipeline plain = linear { }
pipeline negated = plain { example.negate(times=3) }
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The example package, really built and installed into a folder of its own."""
    base = tmp_path_factory.mktemp("plugin")
    source = base / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    target = base / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    return target


def mopt(site, *arguments, cwd=None, **extra):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(p) for p in (site, *extra.get("sites", ()))])}
    return subprocess.run(
        [sys.executable, "-m", "mopt.cli.main", *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_listed_and_described(site):
    assert "example.negate" in mopt(site, "passes").stdout
    described = mopt(site, "passes", "example.negate").stdout
    assert "Change the sign of every weight." in described
    assert "times" in described


def test_compiles_with_its_pass_source_target_and_metric(site, tmp_path):
    (tmp_path / "r.mopt").write_text(RECIPE, encoding="utf-8")
    done = mopt(
        site, "compile", "r.mopt", "--target", "ort", "--target", "example", "--json", "--store", "store", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = {(row["pipeline"], row["target"]): row for row in json.loads(done.stdout)["rows"]}
    assert rows["plain", "ort"]["metrics"]["largest"] != rows["negated", "ort"]["metrics"]["largest"]
    assert rows["plain", "example"]["untimed"] == "it only writes text"
    assert "MatMul" in (tmp_path / "build/r/plain/example/model.txt").read_text(encoding="utf-8")


def test_options_are_checked(site, tmp_path):
    (tmp_path / "r.mopt").write_text(RECIPE.replace("times=3", "times=0"), encoding="utf-8")
    done = mopt(site, "check", "r.mopt", cwd=tmp_path)
    assert done.returncode == 2
    assert "times" in done.stderr


def test_a_clash_names_both_packages(site, tmp_path):
    rival = tmp_path / "rival"
    info = rival / "rival-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[mopt.passes]\nexample.negate = rival:Negate\n", encoding="utf-8")
    done = mopt(site, "passes", sites=[rival])
    assert done.returncode == 2
    assert "rival:Negate" in done.stderr
    assert "mopt_example:Negate" in done.stderr


def test_a_broken_plugin_is_named_and_spares_the_rest(site, tmp_path):
    broken = tmp_path / "broken"
    info = broken / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[mopt.passes]\nbroken.one = no_such_module:X\n", encoding="utf-8")
    listed = mopt(site, "passes", sites=[broken])
    assert listed.returncode == 0
    assert "no_such_module" in listed.stdout
    assert "prune.magnitude" in listed.stdout
