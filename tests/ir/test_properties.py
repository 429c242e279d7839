"""Random small graphs survive loading, saving, copying and printing, and compute what they did."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import mopt.ir
import networkx
import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mopt.analysis.cost import cost
from mopt.ir import provenance
from onnx import TensorProto, helper, numpy_helper

F32 = TensorProto.FLOAT
UNARY, BINARY = ("Relu", "Neg", "Abs", "Tanh", "Identity"), ("Add", "Sub", "Mul", "Max")


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Return a valid model over vectors of four floats: branches, splits, constants, shared and unused values."""
    counter = iter(range(10_000))
    named = draw(st.booleans())

    def node(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
        name = draw(st.sampled_from(["", "node", f"{op_type} {next(counter)}"])) if named else ""
        return helper.make_node(op_type, inputs, outputs, name=name, **attributes)

    def body(
        visible: list[str], size: int, depth: int
    ) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], list[str]]:
        nodes: list[onnx.NodeProto] = []
        weights: list[onnx.TensorProto] = []
        own: list[str] = []
        for _ in range(size):
            values = visible + own
            kind = draw(
                st.sampled_from(["unary", "binary", "split", "constant", "weight", "if"][: 6 if depth < 2 else 5])
            )
            out = f"v{next(counter)}" if draw(st.booleans()) else f"größe/{next(counter)}:0"
            if kind == "unary":
                nodes.append(node(draw(st.sampled_from(UNARY)), [draw(st.sampled_from(values))], [out]))
            elif kind == "binary":
                pair = [draw(st.sampled_from(values)), draw(st.sampled_from(values))]
                nodes.append(node(draw(st.sampled_from(BINARY)), pair, [out]))
            elif kind == "split":
                nodes.append(
                    node("Split", [draw(st.sampled_from(values))], [f"{out}a", f"{out}b"], num_outputs=2, axis=0)
                )
                nodes.append(node("Concat", [f"{out}b", f"{out}a"], [out], axis=0))
            elif kind == "if":
                branches = [branch([*values], f"{out}{which}", depth) for which in "tf"]
                nodes.append(node("If", ["c"], [out], then_branch=branches[0], else_branch=branches[1]))
            else:
                numbers = draw(st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4))
                tensor = numpy_helper.from_array(np.array(numbers, np.float32), out)
                if kind == "weight":
                    weights.append(tensor)
                else:
                    nodes.append(node("Constant", [], [out], value=tensor))
            own.append(out)
        return nodes, weights, own

    def branch(visible: list[str], name: str, depth: int) -> onnx.GraphProto:
        nodes, weights, own = body(visible, draw(st.integers(0, 3)), depth + 1)
        # Both branches may call their result the same: names of sibling graphs may clash.
        result = draw(st.sampled_from(["same", f"{name}r"]))
        nodes.append(helper.make_node("Identity", [draw(st.sampled_from(visible + own))], [result]))
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(result, F32, [4])], weights)

    nodes, weights, own = body(["x"], draw(st.integers(1, 8)), 0)
    nodes.append(helper.make_node("Add", ["x", draw(st.sampled_from(own))], ["y"]))
    inputs = [helper.make_tensor_value_info("x", F32, [4]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("y", F32, [4])]
    graph = helper.make_graph(
        draw(st.permutations(nodes)) if draw(st.booleans()) else nodes, "g", inputs, outputs, weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto | Path) -> list[bytes]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = model if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    x = np.array([0.5, -1.25, 3, -0.0], np.float32)
    return [session.run(None, {"x": x, "c": np.array(c)})[0].tobytes() for c in (True, False)]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_random_graphs(model: onnx.ModelProto) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, copy = Path(folder) / "source.onnx", Path(folder) / "copy.onnx"
        source.write_bytes(model.SerializeToString())
        module = mopt.ir.load(source)
        assert mopt.ir.verify(module) == []
        text = mopt.ir.print_module(module, names=True)
        assert mopt.ir.print_module(module.clone(), names=True) == text
        mopt.ir.save(module.clone(), copy)
        assert run(copy) == run(mopt.ir.to_proto(module))
        assert accepted(source) in (None, run(copy))
        assert mopt.ir.print_module(mopt.ir.load(copy), names=True) == text
        again = mopt.ir.from_proto(onnx.load(copy))
        assert mopt.ir.print_module(again, names=True) == text
        mopt.ir.save(module, copy, external_data=True)
        assert mopt.ir.print_module(mopt.ir.load(copy), names=True) == text

    view = module.dataflow()
    assert networkx.is_directed_acyclic_graph(view)
    assert [vertex for vertex, kind in view.nodes(data="kind") if kind == "node"] == list(module.graph)
    uses = sum(value is not None for node in module.graph for value in node.inputs)
    edges = [data for _, _, data in view.edges(data=True) if not data["captured"]]
    assert len(edges) == uses + len(module.graph.outputs)
    assert cost(module).macs == 0

    provenance.stamp_source(module)
    kept = mopt.ir.from_proto(mopt.ir.to_proto(module, provenance=True))
    assert [provenance.origins(node) for node in kept.nodes()] == [(node.name,) for node in kept.nodes()]


def accepted(source: Path) -> list[bytes] | None:
    """Return what the original gives, or None where onnxruntime refuses it: unsorted nodes, names used twice."""
    try:
        return run(source)
    except ort.capi.onnxruntime_pybind11_state.Fail:
        return None
    except ort.capi.onnxruntime_pybind11_state.InvalidGraph:
        return None
