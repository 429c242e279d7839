"""Random small graphs: whatever the rules make of one, it computes the same and keeps its interface."""

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mopt.ir import from_proto, interface_changes, interface_of, verify
from mopt.passes.simplify.ruleset import RULES
from mopt.rewrite import apply_rules
from mopt.runtime.compare import compare_modules
from onnx import TensorProto, helper, numpy_helper

UNARY = ("Relu", "Neg", "Sigmoid", "Identity", "Abs", "Tanh", "HardSigmoid", "Dropout")
BINARY = ("Add", "Mul", "Sub", "Max")


@st.composite
def graphs(draw):
    """A graph over values of shape (N, 4, 6), (N, 6, 4) and (N, 24), with convolutions, products and reshapes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nodes, tensors = [], []
    values = {"cube": ["x"], "turned": [], "flat": []}

    def constant(array):
        name = f"c{len(tensors)}"
        tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def emit(operator, inputs, kind, **attributes):
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        values[kind].append(name)

    for _ in range(draw(st.integers(2, 14))):
        kind = draw(st.sampled_from([kind for kind, held in values.items() if held]))
        source = draw(st.sampled_from(values[kind]))
        step = draw(
            st.sampled_from(["unary", "binary", "constant", "channel", "turn", "move", "linear", "norm", "dynamic"])
        )
        if step == "unary":
            emit(draw(st.sampled_from(UNARY)), [source], kind)
        elif step == "binary":
            emit(draw(st.sampled_from(BINARY)), [source, draw(st.sampled_from(values[kind]))], kind)
        elif step == "constant":
            value = draw(st.sampled_from([0.0, 1.0, 3.0, 0.5, -2.0]))
            emit(
                draw(st.sampled_from(("Add", "Mul", "Div" if value else "Sub"))),
                [source, constant(np.float32(value))],
                kind,
            )
        elif step == "channel" and kind == "cube":
            vector = rng.standard_normal((4, 1)).astype(np.float32)
            emit(draw(st.sampled_from(("Add", "Mul"))), [source, constant(vector)], kind)
        elif step == "turn" and kind != "flat":
            emit("Transpose", [source], "turned" if kind == "cube" else "cube", perm=[0, 2, 1])
        elif step == "move":
            target = draw(st.sampled_from(("cube", "turned", "flat")))
            sizes = {"cube": [0, 4, 6], "turned": [-1, 6, 4], "flat": [0, 24]}[target]
            emit("Reshape", [source, constant(np.array(sizes, np.int64))], target)
        elif step == "linear" and kind == "cube":
            weight = constant(rng.standard_normal((4, 4, 3)).astype(np.float32) / 4)
            emit("Conv", [source, weight], kind, pads=[1, 1])
        elif step == "linear":
            width = 24 if kind == "flat" else 4
            weight = constant(rng.standard_normal((width, width)).astype(np.float32) / width)
            emit("MatMul", [source, weight], kind)
        elif step == "norm" and kind == "cube":
            parts = [rng.uniform(0.5, 2.0, 4).astype(np.float32) for _ in range(4)]
            emit("BatchNormalization", [source, *map(constant, parts)], kind)
        elif step == "dynamic":
            # The shape of another value decides the shape of this one, as exporters write it.
            nodes.append(helper.make_node("Shape", [source], [f"s{len(nodes)}"]))
            emit("Reshape", [source, nodes[-1].output[0]], kind)
    if not nodes:
        emit("Identity", ["x"], "cube")
    shapes = {"cube": ["N", 4, 6], "turned": ["N", 6, 4], "flat": ["N", 24]}
    everything = [(name, kind) for kind, held in values.items() for name in held if name != "x"]
    chosen = draw(st.lists(st.sampled_from(everything), min_size=1, max_size=3, unique=True)) if everything else []
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[kind]) for name, kind in chosen]
    if not outputs:
        nodes.append(helper.make_node("Identity", ["x"], ["y"]))
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes["cube"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes["cube"])]
    graph = helper.make_graph(nodes, "random", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_random_graphs_compute_the_same(proto):
    data = proto.SerializeToString()
    before, module = (from_proto(onnx.load_model_from_string(data)) for _ in range(2))
    trace = apply_rules(module, RULES, by="test")
    assert trace.converged
    assert verify(module) == []
    assert interface_changes(interface_of(before), interface_of(module)) == []
    assert sum(1 for _ in module.nodes()) <= sum(1 for _ in before.nodes())
    assert compare_modules(before, module, bindings=[{"N": 1}, {"N": 3}]).within(1e-4)
    apply_again = apply_rules(module, RULES, by="test")
    assert apply_again.applied == []
