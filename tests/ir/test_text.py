"""The text form: exact, stable, and different wherever two modules compute different things."""

from __future__ import annotations

import mopt.ir
import numpy as np
import onnx
from mopt.ir import provenance

SOURCE = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
main (float[N, 3, H, W] x, bool c) => (float y, int64[2] z)
<float[2, 3, 1, 1] w = {1, 2, 3, 4, 5, 6}, float[10] large = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
 float third = {0.333333343}>
{
   [first] a = Conv <strides = [2, 2], auto_pad = "SAME_UPPER"> (x, w)
   b = Clip (a, , third)
   d, m = Dropout (b)
   e = If (c) <then_branch = yes () => (r) { r = LeakyRelu <alpha = 0.1> (d) },
               else_branch = no () => (s) { s = own.F <alpha = 2.0> (d) }>
   y = ReduceSum (e, )
   z = Constant <value_ints = [1, -1]> ()
}
<domain: "own", opset_import: ["" : 17]> F <alpha> (p) => (q) { q = Elu <alpha : float = @alpha> (p) }
"""

EXPECTED = """\
module opset 17, own 1
graph main(x: f32[N, 3, H, W], c: bool[]) -> (y: f32[1, 1, 1, 1], z: i64[2]) {
  w: f32[2, 3, 1, 1] = weight [[[[1.0]], [[2.0]], [[3.0]]], [[[4.0]], [[5.0]], [[6.0]]]]
  large: f32[10] = weight #e1416c08
  third: f32[] = weight 0.33333334
  a: f32[N, 2, unk__0, unk__1] = Conv(x, w) {auto_pad='SAME_UPPER', strides=[2, 2]}
  b: f32[N, 2, unk__0, unk__1] = Clip(a, _, third)
  d: f32[N, 2, unk__0, unk__1], m: bool[N, 2, unk__0, unk__1] = Dropout(b)
  e: f32[N, 2, unk__0, unk__1] = If(c)
    else_branch() -> (s: f32[N, 2, unk__0, unk__1]) {
      s: f32[N, 2, unk__0, unk__1] = own::F(d) {alpha=2.0}
    }
    then_branch() -> (r: f32[N, 2, unk__0, unk__1]) {
      r: f32[N, 2, unk__0, unk__1] = LeakyRelu(d) {alpha=0.1}
    }
  y: f32[1, 1, 1, 1] = ReduceSum(e)
  z: i64[2] = constant [1, -1]
}
function own::F<alpha>(p: ?[…]) -> (q: ?[…]) {
  q: ?[…] = Elu(p) {alpha=@alpha}
}
"""


def module() -> mopt.ir.Module:
    return mopt.ir.from_proto(onnx.parser.parse_model(SOURCE))


def test_the_text() -> None:
    assert mopt.ir.print_module(module()) == EXPECTED


def test_names_and_provenance_on_request() -> None:
    built = module()
    provenance.stamp_source(built)
    provenance.inherit([built.graph[0]], [built.graph[0]], "step/rule")
    line = mopt.ir.print_module(built, names=True, provenance=True).splitlines()[5]
    assert line.endswith("strides=[2, 2]}  @first  from ['first'] by ['step/rule']")
    assert mopt.ir.print_module(built) == EXPECTED


def test_the_hash_says_type_shape_and_content() -> None:
    hashes = set()
    for array in (
        np.arange(12, dtype=np.float32),
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(12, dtype=np.int32),
        np.arange(12, dtype=np.float32) * np.float32(1 + 1e-7),
    ):
        built = module()
        weight = next(weight for weight in built.weights() if weight.name == "large")
        weight.replace(array)
        hashes.add(mopt.ir.content_hash(weight.tensor))
        assert f"#{mopt.ir.content_hash(weight.tensor)}" in mopt.ir.print_module(built)
    assert len(hashes) == 4


def test_a_nan_and_infinities_are_readable() -> None:
    built = module()
    next(w for w in built.weights() if w.name == "large").replace(np.array([np.nan, np.inf, -np.inf, -0.0], np.float32))
    assert "large: f32[4] = weight [nan, inf, -inf, -0.0]" in mopt.ir.print_module(built)
