"""A package that is installed beside mopt extends it; a clash of names is an error that names both."""

import json

RECIPE = """
model linear = example(size=6)
data noise = random(inputs={x: f32[N, 6]}, samples=8, classes=3)
evaluate(data=noise.test, metrics=[largest])
pipeline plain = linear { }
pipeline negated = plain { example.negate(times=3) }
"""


def test_listed_and_described(example_site, mopt_command):
    assert "example.negate" in mopt_command("passes", sites=[example_site]).stdout
    described = mopt_command("passes", "example.negate", sites=[example_site]).stdout
    assert "Change the sign of every weight." in described
    assert "times" in described


def test_compiles_with_its_pass_source_target_and_metric(example_site, mopt_command, tmp_path):
    (tmp_path / "r.mopt").write_text(RECIPE, encoding="utf-8")
    done = mopt_command(
        "compile",
        "r.mopt",
        "--target",
        "ort",
        "--target",
        "example",
        "--json",
        "--store",
        "store",
        cwd=tmp_path,
        sites=[example_site],
    )
    assert done.returncode == 0, done.stderr
    rows = {(row["pipeline"], row["target"]): row for row in json.loads(done.stdout)["rows"]}
    assert rows["plain", "ort"]["metrics"]["largest"] != rows["negated", "ort"]["metrics"]["largest"]
    assert rows["plain", "example"]["untimed"] == "it only writes text"
    assert "MatMul" in (tmp_path / "build/r/plain/example/model.txt").read_text(encoding="utf-8")


def test_options_are_checked(example_site, mopt_command, tmp_path):
    (tmp_path / "r.mopt").write_text(RECIPE.replace("times=3", "times=0"), encoding="utf-8")
    done = mopt_command("check", "r.mopt", cwd=tmp_path, sites=[example_site])
    assert done.returncode == 2
    assert "times" in done.stderr


def test_a_clash_names_both_packages(example_site, mopt_command, tmp_path):
    rival = tmp_path / "rival"
    info = rival / "rival-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[mopt.passes]\nexample.negate = rival:Negate\n", encoding="utf-8")
    done = mopt_command("passes", sites=[example_site, rival])
    assert done.returncode == 2
    assert "rival:Negate" in done.stderr
    assert "mopt_example:Negate" in done.stderr


def test_a_broken_plugin_is_named_and_spares_the_rest(example_site, mopt_command, tmp_path):
    broken = tmp_path / "broken"
    info = broken / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[mopt.passes]\nbroken.one = no_such_module:X\n", encoding="utf-8")
    listed = mopt_command("passes", sites=[example_site, broken])
    assert listed.returncode == 0
    assert "no_such_module" in listed.stdout
    assert "prune.magnitude" in listed.stdout
