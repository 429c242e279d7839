"""Opaque tools: an answer is believed only if it is valid, equal and smaller; all else they do is a note."""

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import onnx
import onnx.parser
import pytest
from mopt.ir import from_proto, to_proto
from mopt.ir.provenance import history, origins, stamp_source
from mopt.passes.simplify import fixpoint
from mopt.passes.simplify.onnxoptimizer import OnnxOptimizer
from mopt.passes.simplify.onnxsim import OnnxSim
from mopt.passes.simplify.ruleset import RULES
from mopt.passes.simplify.simplify import Simplify
from mopt.passes.simplify.tools import process, trial
from mopt.passes.simplify.tools.exchange import hand_on_provenance, pack, unpack
from mopt.passes.simplify.tools.process import ToolError, ToolProcess
from mopt.runtime.compare import compare_modules

HEADER = '<ir_version: 10, opset_import: ["" : 17]>\n'
CHAIN = "g (float[N] x) => (float[N] y) { a = Identity (x) b = Neg (a) c = Tanh (b) y = Abs (c) }"
SMALLER = "g (float[N] x) => (float[N] y) { b = Neg (x) c = Tanh (b) y = Abs (c) }"
WRONG = "g (float[N] x) => (float[N] y) { c = Tanh (x) y = Relu (c) }"
OTHER_INTERFACE = "g (float[N] x) => (float[N] z) { z = Tanh (x) }"
LARGER = "g (float[N] x) => (float[N] y) { a = Neg (x) b = Neg (a) c = Neg (b) d = Neg (c) e = Tanh (d) y = Abs (e) }"


class Context:
    seed = 0
    bindings: ClassVar = {"N": 3}

    @contextmanager
    def progress(self, description, total=None):
        yield None


def parse(text):
    module = from_proto(onnx.parser.parse_model(HEADER + text))
    for node in module.nodes():
        node.name = node.outputs[0].name
    stamp_source(module)
    return module


def serialised(text):
    return onnx.parser.parse_model(HEADER + text).SerializeToString()


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Make both tools run a script of the test's instead: `stand_in(body)`, where `data` is the model's bytes."""
    started = []

    def use(body):
        script = tmp_path / "tool.py"
        script.write_text(
            "import os, struct, sys, time\n"
            "source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), 'wb')\n"
            "while header := source.read(8):\n"
            "    size, = struct.unpack('<Q', header)\n"
            "    names = source.read(struct.unpack('<Q', source.read(8))[0])\n"
            "    data = source.read(size)\n"
            f"{textwrap.indent(textwrap.dedent(body), '    ')}\n"
            "    sink.write(struct.pack('<BQ', 0, len(data)) + data); sink.flush()\n"
        )
        monkeypatch.setattr(process, "_WORKER", script)
        started.append(ToolProcess("stand-in"))
        for module in (trial, fixpoint):
            monkeypatch.setattr(module, "tool_process", lambda tool: started[-1])

    yield use
    for one in started:
        one.stop()


def test_onnxsim_really_runs():
    module = parse(CHAIN)
    result = OnnxSim().run(module, Context())
    assert [node.op_type for node in result.module.nodes()] == ["Neg", "Tanh", "Abs"]
    assert result.notes[0].message == "onnxsim: 4 nodes became 3"
    assert compare_modules(parse(CHAIN), result.module).max_abs == 0


def test_onnxoptimizer_really_runs():
    result = OnnxOptimizer(passes=("eliminate_identity",)).run(parse(CHAIN), Context())
    assert [node.op_type for node in result.module.nodes()] == ["Neg", "Tanh", "Abs"]


def test_an_unknown_pass_of_onnxoptimizer_is_a_note():
    result = OnnxOptimizer(passes=("eliminate_nothing_known",)).run(parse(CHAIN), Context())
    assert not result.modified
    assert result.notes[0].severity == "warning"
    assert len(list(result.module.nodes())) == 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (WRONG, "its outputs differ"),
        (OTHER_INTERFACE, "it changed the interface"),
        (LARGER, "4 nodes became 6"),
        (b"\x08\x0anonsense", "invalid graph"),
    ],
)
def test_a_bad_answer_is_dropped(stand_in, answer, reason):
    data = answer if isinstance(answer, bytes) else serialised(answer)
    stand_in(f"data = {data!r}")
    result = OnnxSim().run(parse(CHAIN), Context())
    assert not result.modified
    assert reason in result.notes[0].message
    assert [node.op_type for node in result.module.nodes()] == ["Identity", "Neg", "Tanh", "Abs"]


def test_a_crash_is_a_note(stand_in):
    stand_in("os.kill(os.getpid(), 11)")
    result = OnnxSim().run(parse(CHAIN), Context())
    assert not result.modified
    assert "was ended by signal 11" in result.notes[0].message


def test_what_a_dying_tool_said_is_quoted(stand_in):
    stand_in("sys.exit('out of ideas')")
    assert "out of ideas" in OnnxSim().run(parse(CHAIN), Context()).notes[0].message


def test_a_tool_that_hangs_is_stopped(stand_in):
    stand_in("time.sleep(60)")
    result = OnnxSim(timeout=0.3).run(parse(CHAIN), Context())
    assert "took longer than 0.3 s" in result.notes[0].message


def test_the_process_serves_again_after_a_crash(stand_in):
    stand_in("if len(data) < 10: os.abort()")
    tool = trial.tool_process("any")
    tool.send(b"short")
    with pytest.raises(ToolError):
        tool.receive(5)
    tool.send(b"long enough to live")
    assert tool.receive(5) == b"long enough to live"


@pytest.mark.parametrize("answer", [WRONG, OTHER_INTERFACE])
def test_simplify_goes_on_without_a_tool_that_lies(stand_in, answer):
    stand_in(f"data = {serialised(answer)!r}")
    result = Simplify().run(parse(CHAIN), Context())
    assert [node.op_type for node in result.module.nodes()] == ["Neg", "Tanh", "Abs"]
    assert any("was dropped" in note.message for note in result.notes)
    assert compare_modules(parse(CHAIN), result.module).max_abs == 0


def test_simplify_takes_what_helps(stand_in):
    # -(-x) is nothing that the own rules know; the tool does.
    twice = "g (float[N] x) => (float[N] y) { a = Neg (x) b = Neg (a) y = Tanh (b) }"
    stand_in(f"data = {serialised('g (float[N] x) => (float[N] y) { y = Tanh (x) }')!r}")
    rules_alone = Simplify(onnxsim=False, onnxoptimizer=False, skip=["merge-affine"]).run(parse(twice), Context())
    assert len(list(rules_alone.module.nodes())) == 3
    result = Simplify(skip=["merge-affine"]).run(parse(twice), Context())
    (node,) = result.module.nodes()
    assert node.op_type == "Tanh"
    assert "simplify.onnxoptimizer" in history(node)
    assert set(origins(node)) == {"y", "a", "b"} or set(origins(node)) == {"y"}


def test_simplify_without_tools_starts_none(stand_in):
    stand_in("os.abort()")
    result = Simplify(onnxsim=False, onnxoptimizer=False).run(parse(CHAIN), Context())
    assert [node.op_type for node in result.module.nodes()] == ["Neg", "Tanh", "Abs"]
    assert not any("dropped" in note.message for note in result.notes)


def test_simplify_twice_changes_nothing_more():
    first = Simplify().run(parse(CHAIN), Context())
    assert first.modified
    assert not Simplify().run(first.module, Context()).modified


def test_large_weights_and_fills_stay_behind_and_come_back():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    text = (
        "g (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w = {" + ", ".join("0" for _ in range(64 * 64)) + "}, "
        "int64[2] s = {64, 64}> { f = ConstantOfShape <value = float[1] {0.5}> (s) m = MatMul (x, w) "
        "y = MatMul (m, f) }"
    )
    module = from_proto(onnx.parser.parse_model(HEADER + text))
    next(item for item in module.weights() if item.name == "w").replace(weight)
    parcel = pack(module, 1000)
    assert len(parcel.data) < 1000
    assert set(parcel.lifted) == {"w"}
    assert set(parcel.fills) == {"f"}
    back = unpack(parcel.data, parcel, module, "simplify.test")
    assert back.graph.initializers["w"].const_value is module.graph.initializers["w"].const_value
    assert compare_modules(module, back).max_abs == 0


def test_provenance_survives_a_tool_that_knows_none():
    before, after = parse(CHAIN), from_proto(onnx.parser.parse_model(HEADER + SMALLER))
    hand_on_provenance(before, after, "simplify.test")
    found = {node.outputs[0].name: (origins(node), history(node)) for node in after.nodes()}
    assert found["c"] == (("c",), ())
    assert found["b"] == (("b",), ("simplify.test",))


def test_a_node_that_is_new_stands_for_those_that_are_gone():
    before = parse("g (float[N] x) => (float[N] y) { a = Exp (x) b = Neg (a) y = Abs (b) }")
    after = from_proto(
        onnx.parser.parse_model(HEADER + "g (float[N] x) => (float[N] y) { fused = Sigmoid (x) y = Abs (fused) }")
    )
    hand_on_provenance(before, after, "simplify.test")
    fused = next(node for node in after.nodes() if node.op_type == "Sigmoid")
    assert set(origins(fused)) == {"a", "b"}


def test_the_worker_script_needs_nothing_of_this_project(tmp_path):
    """It runs by its path: a broken or half-imported mopt must not reach into the tool's process."""
    model = to_proto(parse(CHAIN)).SerializeToString()
    import struct

    message = struct.pack("<QQ", len(model), 0) + model
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": ""}
    code = (
        "import runpy, sys; sys.modules['mopt'] = None; sys.argv = ['worker', 'onnxoptimizer']; "
        f"runpy.run_path({process._WORKER.as_posix()!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], input=message, capture_output=True, env=environment, check=True)
    assert done.stdout[0] == 0


def test_rules_are_named_once_and_described():
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))
    assert all(rule.algebra and type(rule).__doc__ for rule in RULES)
