"""Golden renderings (fixed width, no colour) and the JSON form. `UPDATE_GOLDEN=1` writes them anew: read the change."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from mopt.diff import Diff, diff, render_terminal
from mopt.diff.encode import VERSION, decode_diff, json_schema
from mopt.ir import Module, from_proto, provenance
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

HERE = Path(__file__).parent
SCHEMA = HERE.parents[1] / "docs" / "diff.schema.json"


def network(*, simplified: bool) -> Module:
    """A few blocks of Conv, BatchNormalization and Relu with a shape computation, before and after simplification."""
    rng = np.random.default_rng(3)
    nodes, weights, last = [], [], "x"
    for block in range(4):
        kernel = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
        scale = rng.standard_normal(4).astype(np.float32) ** 2
        out = f"block{block}"
        if simplified:
            kernel = kernel * scale[:, None, None, None]
            weights += [(f"{out}.w", kernel), (f"{out}.b", np.zeros(4, np.float32))]
            nodes.append(helper.make_node("Conv", [last, f"{out}.w", f"{out}.b"], [f"{out}.c"], name=f"{out}/conv"))
            last = f"{out}.c"
        else:
            zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
            names = [f"{out}.{part}" for part in ("scale", "shift", "mean", "var")]
            weights += [(f"{out}.w", kernel), *zip(names, (scale, zeros, zeros, ones), strict=True)]
            nodes.append(helper.make_node("Conv", [last, f"{out}.w"], [f"{out}.c"], name=f"{out}/conv"))
            nodes.append(helper.make_node("BatchNormalization", [f"{out}.c", *names], [f"{out}.n"], name=f"{out}/bn"))
            last = f"{out}.n"
        nodes.append(helper.make_node("LeakyRelu", [last], [f"{out}.r"], name=f"{out}/relu", alpha=0.1 + 0.1 * block))
        last = f"{out}.r"
    if simplified:
        nodes[-1].attribute[0].f = 0.25
        weights.append(("shape", np.array([1, -1], np.int64)))
    else:
        weights += [("start", np.array([0], np.int64)), ("end", np.array([1], np.int64)), ("rest", np.array([-1]))]
        nodes.append(helper.make_node("Shape", ["x"], ["all"], name="flatten/shape"))
        nodes.append(helper.make_node("Slice", ["all", "start", "end"], ["batch"], name="flatten/slice"))
        nodes.append(helper.make_node("Concat", ["batch", "rest"], ["shape"], name="flatten/concat", axis=0))
    nodes.append(helper.make_node("Reshape", [last, "shape"], ["flat"], name="flatten/reshape"))
    nodes.append(helper.make_node("Sigmoid", ["flat"], ["scores"], name="[bold]odd\x1b[31m name"))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1 if simplified else "N", 4, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if simplified:
        helper.set_model_props(model, {f"tool.note{i}": "done" for i in range(3)})
    return from_proto(model)


@pytest.fixture(scope="module")
def difference() -> Diff:
    before, after = network(simplified=False), network(simplified=True)
    provenance.stamp_source(before)
    return diff(before, after, labels=("original", "simple"), step="simplify.onnxsim")


def rendered(difference: Diff, width: int, encoding: str = "utf-8", **options: bool) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    render_terminal(difference, Console(file=stream, width=width, no_color=True), **options)
    stream.seek(0)
    return stream.read()


def check_golden(path: Path, text: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "width", "encoding", "everything"),
    [
        ("wide", 110, "utf-8", False),
        ("narrow", 60, "utf-8", False),
        ("ascii", 80, "ascii", False),
        ("all", 110, "utf-8", True),
    ],
)
def test_terminal(difference: Diff, name: str, width: int, encoding: str, everything: bool) -> None:
    text = rendered(difference, width, encoding, all=everything)
    assert "\x1b" not in text, "no control sequence of a model's names reaches the terminal"
    assert all(len(line) <= width for line in text.splitlines()) or everything
    check_golden(HERE / "golden" / f"{name}.txt", text)


def test_empty_and_renamed_are_short(difference: Diff) -> None:
    same = network(simplified=True)
    assert rendered(diff(same, same.clone()), 80) == "before → after\n  no change\n"
    renamed = network(simplified=True)
    next(iter(renamed.graph)).name = "other"
    found = diff(same, renamed)
    assert found.summary() == "no change but 1 name" and "block0/conv  →  other" in rendered(found, 80)


def test_colour_is_only_decoration(difference: Diff) -> None:
    stream = io.StringIO()
    render_terminal(difference, Console(file=stream, width=110, force_terminal=True, color_system="standard"))
    coloured = stream.getvalue()
    assert "\x1b[" in coloured
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == rendered(difference, 110)


def test_json_keeps_to_its_published_schema(difference: Diff) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(json.dumps(difference.to_json(), allow_nan=False))
    jsonschema.validate(document, schema)
    check_golden(SCHEMA, json.dumps(schema, indent=2) + "\n")
    assert document["version"] == VERSION and document["summary"] == difference.summary()
    assert Diff.from_json(document) == difference
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "matched": "many"}, schema)


def test_json_of_something_else_is_refused(difference: Diff) -> None:
    document = difference.to_json()
    with pytest.raises(ValueError, match="not a mopt diff"):
        decode_diff({"schema": "other"})
    with pytest.raises(ValueError, match="version 99"):
        decode_diff({**document, "version": 99})
    del document["groups"]
    with pytest.raises(ValueError, match="damaged"):
        decode_diff(document)


def test_the_model_of_a_diff_is_read_without_heavy_imports() -> None:
    code = (
        "import sys, mopt.diff, mopt.show, mopt.diff.encode;"
        "heavy = {'onnx', 'onnx_ir', 'numpy', 'networkx', 'onnxruntime', 'torch'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
