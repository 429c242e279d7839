"""What `mopt show` says of a module: golden renderings, JSON, real models."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mopt.cli.looking import show_command
from mopt.ir import Module, from_proto, load, provenance, save
from mopt.rendering.page import Column, Table, clean, shorten
from mopt.rendering.quantities import change, magnitude, share, size
from mopt.show import render_terminal, show
from mopt.values import Location
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

HERE = Path(__file__).parent


def network() -> Module:
    """A convolution, a branch, a custom operator, a pruned and a clustered weight."""
    rng = np.random.default_rng(1)
    pruned = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    pruned[np.abs(pruned) < 0.7] = 0
    clustered = rng.choice(np.array([-0.5, 0.25, 1, 2], np.float32), (8, 8, 1, 1))
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["b"], [name], name=f"{name}/{op}")],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name, op in (("then", "Relu"), ("else", "Tanh"))
    }
    nodes = [
        helper.make_node("Conv", ["x", "pruned"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "clustered"], ["b"], name="second"),
        helper.make_node("Constant", [], ["k"], name="k", value=numpy_helper.from_array(np.array([2.0], np.float32))),
        helper.make_node("If", ["flag"], ["c"], name="choice", **branches),
        helper.make_node("Mul", ["c", "k"], ["d"], name="[red]scale\x1b[0m"),
        helper.make_node("Sparkle", ["d"], ["y"], name="last", domain="org.example"),
    ]
    graph = helper.make_graph(
        nodes,
        "sample",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(pruned, "pruned"), numpy_helper.from_array(clustered, "clustered")],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("org.example", 1)],
        ir_version=9,
        producer_name="somebody",
    )
    helper.set_model_props(model, {"charset": "abc" * 200, "licence": "MIT"})
    module = from_proto(model)
    provenance.stamp_source(module)
    second = module.graph[1]
    provenance.inherit([second], [second], "cluster.kmeans/conv")
    second.metadata_props["mopt.origins"] = '["first"]'
    return module


def rendered(module: Module, width: int, encoding: str = "utf-8", **options: bool) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    render_terminal(show(module, label="sample.onnx"), Console(file=stream, width=width, no_color=True), **options)
    stream.seek(0)
    return stream.read()


@pytest.mark.parametrize(
    ("name", "width", "encoding", "everything"),
    [("wide", 100, "utf-8", False), ("narrow", 56, "utf-8", False), ("ascii", 80, "ascii", False)],
)
def test_terminal(name: str, width: int, encoding: str, everything: bool) -> None:
    text = rendered(network(), width, encoding, all=everything)
    path = HERE / "golden" / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert "\x1b" not in text and all(len(line) <= width for line in text.splitlines())


def test_figures() -> None:
    summary = show(network(), bindings={"N": 2})
    assert (summary.nodes, summary.constants) == (7, 1)
    assert summary.macs == 2 * (8 * 3 * 9 * 14 * 14 + 8 * 8 * 14 * 14)
    assert dict(summary.bindings) == {"N": 2} and summary.dynamic == ("N",)
    assert summary.custom == ("org.example",) and [body.nodes for body in summary.bodies] == [1, 1]
    weights = {use.facts.name: use for use in summary.weights}
    assert weights["clustered"].facts.distinct == 4 and weights["clustered"].facts.bits == 2
    assert weights["pruned"].facts.zeros == 216 - summary.nonzero + 64
    assert weights["pruned"].users == ("Conv",) and weights["k"].facts.stored == "constant"
    layer = summary.layers_by_cost[0]
    assert (layer.name, layer.nodes, layer.macs) == ("first", 2, summary.macs)
    assert summary.history == (("cluster.kmeans/conv", 1),)
    unmeasured = show(network(), weights=False)
    assert all(use.facts.zeros is None for use in unmeasured.weights)


def test_json_says_it_all() -> None:
    summary = show(network(), label="sample.onnx")
    document = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert (document["schema"], document["version"], document["label"]) == ("mopt.show", 1, "sample.onnx")
    assert document["opsets"] == {"ai.onnx": 17, "org.example": 1}
    assert document["inputs"][0] == {"name": "x", "dtype": "f32", "shape": ["N", 3, 16, 16]}
    assert document["metadata"]["licence"] == "MIT" and document["macs"] == summary.macs
    assert {entry["op"]: entry["nodes"] for entry in document["operators"]}["Conv"] == 2
    assert document["weights"][0]["facts"]["zeros"] == summary.weights[0].facts.zeros


@pytest.mark.parametrize(
    "path",
    [
        "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "pkg:silero_vad/data/silero_vad.onnx",
        "pkg:basic_pitch/saved_models/icassp_2022/nmp.onnx",
    ],
)
def test_real_models(path: str) -> None:
    module = load(Location(path).resolve())
    summary = show(module)
    assert summary.nodes + summary.constants == len(list(module.nodes(functions=True)))
    assert sum(entry.nodes for entry in summary.operators) == summary.nodes
    assert sum(total.bytes for total in summary.dtypes) == summary.bytes
    assert len(summary.weights) == len(list(module.weights()))
    stream = io.StringIO()
    render_terminal(summary, Console(file=stream, width=90, no_color=True))
    assert all(len(line) <= 90 for line in stream.getvalue().splitlines() if line.isascii())


def test_an_empty_model() -> None:
    graph = helper.make_graph(
        [], "empty", *[[helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])] for _ in range(2)]
    )
    module = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    summary = show(module)
    assert (summary.nodes, summary.parameters, summary.sparsity) == (0, 0, 0.0)
    assert "empty" in rendered(module, 80) or summary.label == "empty"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (magnitude(2_158_557_824), "2.16 G"), (magnitude(999_999), "1.00 M"), (magnitude(940), "940"),
        (size(10_761_788), "10.3 MiB"), (size(1023), "1023 B"), (share(0.0), "0%"), (share(1.0), "100%"),
        (share(0.0001), "<0.1%"), (share(0.99999), ">99.9%"), (share(0.375), "37.5%"), (change(100, 69), "−31%"),
        (change(0, 5), ""), (change(5, 5), ""), (change(10, 50), "+400%"),
        (shorten("short", 10), "short"), (shorten("a/very/long/name", 10), "a/v…g/name"),
        (shorten("名前名前名前", 7), "名…名前"),
        (clean("a\x1b[31m\u202eb"), "a\\x1b[31m\\u202eb"),
    ],
)  # fmt: skip
def test_words(told: str, expected: str) -> None:
    assert told == expected


def test_tables_leave_out_columns_before_they_press_names() -> None:
    columns = [Column("name", flexible=True), Column("kept", "right"), Column("dropped", droppable=1)]
    table = Table(columns, [("a" * 30, "1", "b" * 20), ("c", "22", "")])
    assert [len(line) <= 30 for line, _ in table.lines(30)] == [True] * 3
    assert "dropped" in table.lines(80)[0][0] and "dropped" not in table.lines(30)[0][0]


def test_every_node_with_its_source_layers(tmp_path: Path):
    path = tmp_path / "m.onnx"
    module = network()
    provenance.stamp_source(module)
    save(module, path, provenance=True)
    plain = CliRunner().invoke(show_command, [str(path), "--graph"]).output
    told = CliRunner().invoke(show_command, [str(path), "--graph", "--provenance"]).output
    assert told.count("  from ['last'] by []") == 1
    assert "from [" not in plain
    assert [line.partition("  from [")[0] for line in told.splitlines()] == plain.splitlines()
    assert CliRunner().invoke(show_command, [str(path), "--provenance"]).exit_code == 2
