"""Distillation in recipes: what the checker says without running anything, and a compile of every form."""

from __future__ import annotations

import json

import pytest
from mopt.build.progress import PlainReporter
from mopt.check import check
from mopt.driver import CompileOptions, compile_recipe
from mopt.ir import save

HEAD = """
model net = onnx("net.onnx")
model young = onnx("young.onnx")
data scans = python("data.py:data")
"""
DATA = """
def data():
    from mopt.recipes.digits.data import digits
    splits = digits()
    return {"train": splits["train"][:320], "held": splits["train"][1000:1100], "test": splits["test"]}
"""


@pytest.fixture
def folder(tmp_path, teacher, student):
    save(teacher, tmp_path / "net.onnx", provenance=True)
    save(student(), tmp_path / "young.onnx", provenance=True)
    (tmp_path / "data.py").write_text(DATA, encoding="utf-8")
    return tmp_path


@pytest.fixture
def checked(folder):
    def run(*pipelines):
        path = folder / "r.mopt"
        path.write_text("\n".join([HEAD, *pipelines]), encoding="utf-8")
        found = check(path, {})
        return found, [diagnostic.code for diagnostic in found.diagnostics if diagnostic.code.startswith("E")]

    return run


SLIM = "pipeline slim = net { prune.channels(amount=50%) "


@pytest.mark.parametrize(
    "steps",
    [
        SLIM + "distill.response(teacher=net, data=scans.train) }",
        SLIM + "distill.response(teacher=parent, data=scans.train, loss=cross_entropy, alpha=70%, temperature=4) }",
        SLIM + 'distill.features(teacher=parent, data=scans.train, layers=["n3", "n5"]) }',
        SLIM + 'distill.features(teacher=net, data=scans.train, layers={n3: "n3"}, distance=cosine, mode=offline) }',
        SLIM + "} pipeline p = any(net, slim) { prune.magnitude(amount=50%) "
        "distill.response(teacher=parent, data=scans.train) }",
        SLIM + "quantize.static(data=scans.train) distill.response(teacher=net, data=scans.train) }",
    ],
)
def test_what_is_right(checked, steps):
    found, errors = checked(steps, "pipeline other = young { distill.response(teacher=net, data=scans.train) }")
    assert found.ok, errors


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        (SLIM + "distill.response(teacher=nett, data=scans.train) }", "E0201"),
        (SLIM + "distill.response(teacher=slim, data=scans.train) }", "E0401"),
        (SLIM + "distill.response(teacher=later, data=scans.train) } pipeline later = net { }", "E0402"),
        (SLIM + "distill.response(teacher=scans, data=scans.train) }", "E0306"),
        (SLIM + "distill.response(data=scans.train) }", "E0205"),
        (SLIM + "distill.response(teacher=net, data=scans.train, alpha=0.5) }", "E0314"),
        (SLIM + "distill.response(teacher=net, data=scans.train, alpha=2.0) }", "E0303"),
        (SLIM + "distill.response(teacher=net, data=scans.train, match=l1) }", "E0302"),
        (SLIM + "distill.features(teacher=net, data=scans.train) }", "E0205"),
        (SLIM + "distill.features(teacher=net, data=scans.train, layers=[]) }", "E0314"),
    ],
)
def test_what_is_wrong(checked, steps, code):
    found, errors = checked(steps)
    assert not found.ok
    assert code in errors


def test_parent_is_the_variant_s_own(checked):
    found, errors = checked(
        SLIM + "} pipeline p = any(net, slim) { prune.magnitude(amount=50%) "
        "distill.response(teacher=parent, data=scans.train) }"
    )
    assert found.ok, errors
    teachers = [
        str(declaration.steps[1].operation.teacher)
        for name, declaration in found.recipe.pipelines.items()
        if declaration.declared == "p"
    ]
    assert teachers == ["net", "slim"]


def test_a_pipeline_called_parent_is_meant(checked):
    found, errors = checked(
        "pipeline parent = young { }",
        SLIM + "distill.response(teacher=parent, data=scans.train) }",
        "pipeline keep = parent { }",
    )
    assert found.ok, errors
    assert str(found.recipe.pipelines["slim"].steps[1].operation.teacher) == "parent"


RECIPE = """
evaluate(data=scans.test, metrics=[accuracy], batch=60)
pipeline follows = young {
    distill.response(teacher=net, data=scans.train, steps=50, rate=2e-2, device=cpu)
}
pipeline slim = net {
    prune.channels(amount=60%)
}
pipeline mended = net {
    prune.channels(amount=60%)
    distill.features(teacher=parent, data=scans.train, layers=["n3", "n5", "n7"], steps=40, rate=3e-3, device=cpu)
}
pipeline sharper = follows {
    distill.response(teacher=follows, data=scans.train, loss=cross_entropy, steps=2, device=cpu)
}
"""


def test_a_compile(folder):
    """No pipeline starts from the teacher of `follows`; `mended` names its teacher in one word."""
    (folder / "r.mopt").write_text(HEAD + RECIPE, encoding="utf-8")

    def compiled(only=()):
        options = CompileOptions(
            store=folder / "store", output=folder / "out", profile="never", **({"only": only} if only else {})
        )
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            results = compile_recipe(folder / "r.mopt", options, PlainReporter(log)).to_json()
        return results, (folder / "log.txt").read_text(encoding="utf-8")

    results, log = compiled(("follows",))
    assert results["exit_status"] == 0, log
    results, log = compiled()
    assert results["exit_status"] == 0, log
    accuracy = {row["pipeline"]: row["metrics"]["accuracy"] for row in results["rows"]}
    assert accuracy["follows"] > 0.6, accuracy
    assert accuracy["mended"] > accuracy["slim"], accuracy
    assert "`follows`, weight for weight" in json.dumps(results["steps"]["sharper"], ensure_ascii=False)
    assert results["steps"]["follows"][0]["cached"]
    assert all(step["cached"] for steps in compiled()[0]["steps"].values() for step in steps)
    assert len(list((folder / "store/v1/recordings").glob("*/*"))) == 2
