"""A right recipe becomes exactly the `Recipe` that the executor is to see."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mopt.check import check
from mopt.recipe import Binary, Measure, Number
from mopt.values import ByteSize, DataRef, Duration, LossRef, MetricRef, ModelRef, NofM, PythonRef, Ratio, TensorType

GOLDEN = Path(__file__).parent / "golden"
MODEL = 'model crnn = onnx("model.onnx")\ndata text = python("data.py:text")\n'


@pytest.fixture
def checked(fakes, tmp_path):
    for name in ("model.onnx", "model.py", "data.py", "common.mopt", "crnn.safetensors"):
        shutil.copy(GOLDEN / name, tmp_path)

    def run(text, overrides=None, name="recipe.mopt", warnings=False):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        result = check(path, overrides or {}, fakes)
        errors = [one for one in result.diagnostics if warnings or one.severity == "error"]
        assert not errors, errors
        assert result.ok
        return result.recipe

    return run


def operations(recipe, pipeline):
    return [step.operation for step in recipe.pipelines[pipeline].steps if hasattr(step, "operation")]


def conditions(recipe, pipeline):
    return [step for step in recipe.pipelines[pipeline].steps if not hasattr(step, "operation")]


def test_the_whole_language(checked, tmp_path):
    recipe = checked(
        """
        recipe "Captcha"
        seed 7
        param amount = 20%
        model crnn = torch("model.py:CRNN", weights="crnn.safetensors", inputs={image: f32[N, 1, 50, 200]},
                           args={depth: 2, "act": "relu", part: 30%})
        model tiny = onnx("model.onnx")
        data captcha = python("data.py:Captcha", seed=7)
        loss ctc = python("data.py:ctc")
        metric rate = python("data.py:cer", goal=min)

        evaluate(data=captcha.test, metrics=[rate, ctc, accuracy], batch=8)
        evaluate(captcha.calib[:16], [mse], pipelines="student*")

        pipeline original = crnn { }
        pipeline pruned = original {
            prune.channels(amount, l2, skip=["rnn*", "head*"])
            tune(data=captcha.train, loss=ctc, epochs=3, rate=1, budget=2min, best=accuracy)
            prune.nm(2:4)
            require rate <= original.rate + 1%
        }
        pipeline student = tiny {
            distill.response(teacher=crnn, data=captcha, temperature=4, alpha=70%)
            convert(extra=[1, {a: captcha.train}, "x"], dynamic={image: [0, "N"]}, opset=17)
            cluster.kmeans(codebook=4KiB)
            require size <= 30% * original.size
            require latency < 10ms
        }
        app reader = python("model.py:Reader", detector=student, recogniser=pruned, gap=0.5)
        target cpu = ort(provider=cpu, threads=2)
        profile(batch=[1, 8, 32], targets=[cpu, trt], bind={W: 320})
        """,
        warnings=True,
    )
    assert (recipe.title, recipe.seed) == ("Captcha", 7)
    assert dict(recipe.parameters) == {"amount": Ratio(0.2)}
    crnn = recipe.models["crnn"].source
    assert isinstance(crnn.model, PythonRef)
    assert crnn.model.file.resolve() == tmp_path / "model.py"
    assert crnn.weights.resolve() == tmp_path / "crnn.safetensors"
    assert crnn.inputs == {"image": TensorType("f32", ("N", 1, 50, 200))}
    assert crnn.args == {"depth": 2, "act": "relu", "part": Ratio(0.3)}
    assert str(recipe.models["crnn"].place).endswith("recipe.mopt:5:15")
    assert list(recipe.losses) == ["ctc"]
    assert {name: one.goal for name, one in recipe.metrics.items()} == {"rate": "min", "accuracy": "max", "mse": "min"}
    first, second = recipe.evaluations
    assert (first.data, first.metrics, first.batch) == (DataRef("captcha", "test"), ("rate", "ctc", "accuracy"), 8)
    assert (second.data, second.pipelines) == (DataRef("captcha", "calib", None, 16), ("student*",))

    assert [(one.name, one.parent) for one in recipe.pipelines.values()] == [
        ("original", "crnn"),
        ("pruned", "original"),
        ("student", "tiny"),
    ]
    channels, tune, nm = operations(recipe, "pruned")
    assert (channels.amount, channels.criterion, channels.skip) == (Ratio(0.2), "l2", ("rnn*", "head*"))
    assert isinstance(channels.amount, Ratio)
    assert (tune.data, tune.loss, tune.best) == (DataRef("captcha", "train"), LossRef("ctc"), MetricRef("accuracy"))
    assert (tune.rate, type(tune.rate), tune.budget) == (1.0, float, Duration(120))
    assert nm.pattern == NofM(2, 4)
    distill, convert, kmeans = operations(recipe, "student")
    assert (distill.teacher, distill.data, distill.alpha) == (ModelRef("crnn"), DataRef("captcha"), 0.7)
    assert convert.extra == (1, {"a": DataRef("captcha", "train")}, "x")
    assert convert.dynamic == {"image": (0, "N")}
    assert kmeans.codebook == ByteSize(4096)

    (cer,) = conditions(recipe, "pruned")
    assert cer.text == "rate <= original.rate + 1%"
    assert cer.left == Measure(None, "rate")
    assert cer.right == Binary("+", Measure("original", "rate"), Number(Ratio(0.01), "1%"))
    size, latency = conditions(recipe, "student")
    assert size.right == Binary("*", Number(Ratio(0.3), "30%"), Measure("original", "size"))
    assert latency.right == Number(Duration(0.01), "10ms")

    app = recipe.apps["reader"]
    assert dict(app.parts) == {"detector": "student", "recogniser": "pruned"}
    assert dict(app.options) == {"gap": 0.5}
    assert recipe.targets["cpu"].target.threads == 2
    assert (recipe.profile.batch, recipe.profile.targets, recipe.profile.bind) == (
        (1, 8, 32),
        ("cpu", "trt"),
        {"W": 320},
    )


def test_overrides(checked):
    text = 'param amount = 20%\nparam name = "a b"\nparam rate = 0.5\nparam how = l1\nparam skip = ["a"]\n' + MODEL
    text += "pipeline p = crnn {\n prune.channels(amount, how, skip)\n convert(extra=[name, rate])\n}"
    overrides = {"amount": "35%", "name": "x y", "rate": "2", "how": "fpgm", "skip": '["b", "c"]'}
    channels, convert = operations(checked(text, overrides), "p")
    assert (channels.amount, channels.criterion, channels.skip) == (Ratio(0.35), "fpgm", ("b", "c"))
    assert convert.extra == ("x y", 2)


def test_any_expands_pipelines_and_their_children(checked):
    recipe = checked(
        "param keep = any(10%, 20%)\n"
        + MODEL
        + """
        pipeline pruned = crnn {
            prune.magnitude(amount=keep, scope=any(global, local))
            prune.channels(amount=keep)
        }
        pipeline smaller = pruned {
            simplify(rounds=any(1, 2))
            prune.magnitude(keep)
            require size <= pruned.size
        }
        pipeline either = any(crnn, pruned) { simplify() }
        """
    )
    pruned = [f"pruned[keep={keep}, scope={scope}]" for keep in ("10%", "20%") for scope in ("global", "local")]
    smaller = [f"smaller{one[6:-1]}, rounds={rounds}]" for one in pruned for rounds in (1, 2)]
    either = ["either[parent=crnn]"] + [f"either{one[6:-1]}, parent=pruned]" for one in pruned]
    assert list(recipe.pipelines) == pruned + smaller + either
    for name in smaller:
        one = recipe.pipelines[name]
        assert one.parent == "pruned" + name.removeprefix("smaller").rpartition(", ")[0] + "]"
        simplify, magnitude = operations(recipe, name)
        chosen = dict(one.choices)
        assert (str(simplify.rounds), str(magnitude.amount)) == (chosen["rounds"], chosen["keep"])
        assert conditions(recipe, name)[0].right == Measure(one.parent, "size")
    magnitude, channels = operations(recipe, "pruned[keep=20%, scope=local]")
    assert (magnitude.amount, magnitude.scope, channels.amount) == (Ratio(0.2), "local", Ratio(0.2))
    assert recipe.pipelines["either[parent=crnn]"].parent == "crnn"
    assert recipe.pipelines[either[1]].parent == pruned[0]
    assert {one.declared for one in recipe.pipelines.values()} == {"pruned", "smaller", "either"}


def test_equal_options_are_told_apart_in_names(checked):
    recipe = checked(
        MODEL + "pipeline p = crnn {\n prune.magnitude(any(1%, 2%))\n prune.channels(amount=any(3%, 4%))\n}"
    )
    assert "p[amount=1%, prune.channels.amount=4%]" in recipe.pipelines


def test_paths_are_relative_to_the_recipe_that_names_them(checked, tmp_path):
    folder = tmp_path / "größe und Raum"
    folder.mkdir()
    shutil.copy(GOLDEN / "model.onnx", folder / "net 1.onnx")
    (folder / "shared.mopt").write_text('model far = onnx("net 1.onnx")\n', encoding="utf-8")
    text = f'import "{folder.name}/shared.mopt"\nimport "{folder.name}/../{folder.name}/shared.mopt"\n'
    recipe = checked(text + "pipeline p = far { }", name="my recipe é.mopt")
    assert recipe.models["far"].source.path.resolve() == folder / "net 1.onnx"
    assert recipe.models["far"].place.file.endswith("shared.mopt")


def test_names_in_any_script(checked):
    recipe = checked('model größe = onnx("model.onnx")\npipeline 模型 = gro\u0308ße { }')
    assert recipe.pipelines["模型"].parent == "größe"


def test_a_param_may_name_what_varies(checked):
    text = "param which = crnn\n" + MODEL + 'model tiny = onnx("model.onnx")\npipeline p = which { }'
    assert checked(text).pipelines["p"].parent == "crnn"
    assert checked(text, {"which": "tiny"}).pipelines["p"].parent == "tiny"


def test_a_built_in_loss_and_metric_of_one_name(checked):
    recipe = checked(
        MODEL + "evaluate(data=text.test, metrics=[mse])\npipeline p = crnn { tune(data=text.train, loss=mse) }"
    )
    assert list(recipe.losses) == ["mse"]
    assert list(recipe.metrics) == ["mse"]


def test_the_default_registry_checks_a_recipe(tmp_path):
    shutil.copy(GOLDEN / "model.onnx", tmp_path)
    path = tmp_path / "a.mopt"
    path.write_text('model m = onnx("model.onnx")\npipeline p = m { simplify() prune.magnitude(amount=30%) }\n')
    result = check(path)
    assert [one.code for one in result.diagnostics] == []
    assert [type(one).__name__ for one in operations(result.recipe, "p")] == ["Simplify", "Magnitude"]
