"""Symbolic shapes are compared with the shapes that onnxruntime really produces, at two sizes."""

import onnx
import onnx.parser
import pytest
from mopt.ir import from_proto, to_proto
from mopt.rewrite import View
from mopt.rewrite.symbol import Expr
from mopt.runtime.ort import OrtRunner

CASES = [
    "y = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)",
    "y = Conv <kernel_shape = [3, 3], dilations = [2, 2]> (x, w)",
    "y = Conv <kernel_shape = [3, 3], strides = [2, 2], auto_pad = \"SAME_UPPER\"> (x, w)",
    "y = ConvTranspose <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 0, 1, 0], output_padding = [1, 0]> (x, w)",
    "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)",
    "y = AveragePool <kernel_shape = [2, 3], strides = [1, 2]> (x)",
    "y = GlobalAveragePool (x)",
    "y = Transpose <perm = [2, 0, 3, 1]> (x)",
    "s = Constant <value = int64[3] {0, -1, 5}> () t = Transpose <perm = [0, 2, 3, 1]> (x) y = Reshape (t, s)",
    "y = Flatten <axis = 2> (x)",
    "a = Constant <value = int64[2] {1, -1}> () y = Unsqueeze (x, a)",
    "y = Concat <axis = 2> (x, x, x)",
    "y = ReduceMean <axes = [2, -1], keepdims = 0> (x)",
    "y = ArgMax <axis = 2> (x)",
    "y, z = Split <axis = 1> (d)  ",
    "a = Constant <value = int64[2] {1, -2}> () "
    "b = Constant <value = int64[2] {9223372036854775807, 9223372036854775807}> () "
    "j = Constant <value = int64[2] {2, 1}> () y = Slice (x, a, b, j)",
    "p = Constant <value = int64[8] {0, 0, 1, 2, 0, 0, 3, 4}> () y = Pad (x, p)",
    "r = Constant <value = int64[4] {2, 1, 3, 1}> () y = Tile (x, r)",
    "s = Constant <value = float[4] {1, 1, 2, 0.5}> () y = Resize <mode = \"nearest\"> (x, , s)",
    "s = Shape <start = 2> (x) y = ConstantOfShape (s)",
    "j = Constant <value = int64[2] {1, 0}> () y = Gather <axis = 1> (x, j)",
    "k = Constant <value = int64[1] {2}> () y, z = TopK <axis = 1> (x, k)",
    "t = Transpose <perm = [0, 1, 3, 2]> (x) y = MatMul (x, t)",
    "z = GlobalMaxPool (x) y = Mul (x, z)",
    "y = DepthToSpace <blocksize = 2> (d)",
    "y = SpaceToDepth <blocksize = 2> (d)",
    "y = OneHot <axis = 1> (i, five, v)",
]  # fmt: skip
HEADER = '<ir_version: 10, opset_import: ["" : 17]>\n'


def _model(body):
    weights = ", ".join("1" for _ in range(5 * 5 * 9))
    graph = (
        "g (float[N, 5, H, W] x, float[N, 8, D, D] d, int64[N, H] i) => (float y) "
        f"<float[5, 5, 3, 3] w = {{{weights}}}, int64 five = {{5}}, float[2] v = {{0, 1}}> {{ {body} }}"
    )
    return onnx.parser.parse_model(HEADER + graph.replace("(float y)", "(y)"))


@pytest.mark.parametrize("body", CASES)
@pytest.mark.parametrize("sizes", [{"N": 1, "H": 7, "W": 10, "D": 4}, {"N": 3, "H": 8, "W": 6, "D": 6}], ids=str)
def test_symbolic_shape_is_the_real_one(body, sizes):
    import numpy as np

    module = from_proto(_model(body))
    shape = View(module).shape(module.graph.outputs[0])
    n, h, w, d = sizes["N"], sizes["H"], sizes["W"], sizes["D"]
    feeds = {
        "x": np.ones((n, 5, h, w), np.float32),
        "d": np.ones((n, 8, d, d), np.float32),
        "i": np.ones((n, h), np.int64),
    }
    with OrtRunner(bytes(to_proto(module).SerializeToString()), optimize=False) as runner:
        real = runner.run(feeds)["y"].shape
    assert shape is not None
    assert [_evaluate(size, sizes) for size in shape] == list(real)


def _evaluate(size, sizes):
    """Put numbers in for the dimensions' names."""
    if not isinstance(size, Expr):
        return size
    total = 0
    for atoms, coefficient in size.terms.items():
        term = coefficient
        for atom in atoms:
            if atom in sizes:
                term *= sizes[atom]
            else:
                inner, divisor = atom.strip("⌊⌋").rsplit("/", 1)
                term *= eval(inner, {}, sizes) // int(divisor)
        total += term
    return total


def test_dimensions_without_a_proper_name_are_not_taken_for_equal():
    text = HEADER + 'g (float["?", "?"] x) => (y) { y = Neg (x) }'
    proto = onnx.parser.parse_model(text.replace('"?"', "Q"))
    for dim in proto.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = "?"
    first, second = View(from_proto(proto)).shape(from_proto(proto).graph.inputs[0]) or (None, None)
    assert first != second
