"""Where nodes come from survives rewriting, copying and, on request, saving."""

from __future__ import annotations

from pathlib import Path

import mopt.ir
import onnx
import onnx_ir as ir
from mopt.ir import provenance

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[4] x, bool c) => (float[4] y) {
   [first] a = Relu (x)
   [second] b = Neg (a)
   [third] y = If (c) <then_branch = t () => (u) { [inner] u = Abs (b) },
                       else_branch = e () => (v) { [other] v = Exp (b) }>
}
"""


def stamped() -> mopt.ir.Module:
    module = mopt.ir.from_proto(onnx.parser.parse_model(TEXT))
    provenance.stamp_source(module)
    return module


def test_a_source_stamps_every_node_once() -> None:
    module = stamped()
    assert [provenance.origins(node) for node in module.nodes()] == [
        ("first",), ("second",), ("third",), ("inner",), ("other",),
    ]  # fmt: skip
    module.graph[0].name = "renamed"
    provenance.stamp_source(module)
    assert provenance.origins(module.graph[0]) == ("first",)
    assert provenance.history(module.graph[0]) == ()


def test_origins_and_history_are_handed_on() -> None:
    module = stamped()
    first, second = module.graph[0], module.graph[1]
    new = ir.node("Clip", [module.graph.inputs[0]])
    provenance.inherit([new], [first, second], "simplify.rules/fuse")
    assert provenance.origins(new) == ("first", "second")
    newer = ir.node("Tanh", [new.outputs[0]])
    provenance.inherit([newer], [new], "convert.float16")
    provenance.inherit([newer], [newer], "convert.float16")
    assert provenance.origins(newer) == ("first", "second")
    assert provenance.history(newer) == ("simplify.rules/fuse", "convert.float16")


def test_saving_keeps_it_only_on_request(tmp_path: Path) -> None:
    module = stamped()
    provenance.inherit([module.graph[0]], [module.graph[0]], "ß/“rule”")
    inner = next(node for node in module.nodes() if node.op_type == "Abs")
    inner.metadata_props["kept"] = "yes"
    for path in mopt.ir.save(module, tmp_path / "with.onnx", provenance=True):
        again = mopt.ir.load(path)
    assert [provenance.origins(node) for node in again.nodes()] == [provenance.origins(node) for node in module.nodes()]
    assert provenance.history(again.graph[0]) == ("ß/“rule”",)
    for path in mopt.ir.save(module, tmp_path / "without.onnx"):
        assert b"mopt." not in path.read_bytes()
        plain = mopt.ir.load(path)
    assert next(node for node in plain.nodes() if node.op_type == "Abs").metadata_props == {"kept": "yes"}
    assert b"mopt." not in mopt.ir.to_proto(module).SerializeToString()
    assert b"mopt.origins" in mopt.ir.to_proto(module, provenance=True).SerializeToString()
    assert provenance.origins(module.graph[0]) == ("first",)


def test_strip() -> None:
    module = stamped()
    provenance.strip(module.model)
    assert not any(node.metadata_props for node in module.nodes())


def test_foreign_metadata_of_that_name_do_no_harm() -> None:
    module = stamped()
    module.graph[0].metadata_props["mopt.origins"] = "{not json"
    module.graph[1].metadata_props["mopt.origins"] = '"text"'
    assert provenance.origins(module.graph[0]) == provenance.origins(module.graph[1]) == ()
