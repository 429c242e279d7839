"""PyTorch sources: the graph computes what PyTorch computes, at sizes that were not traced."""

import copy
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from mopt.ir.provenance import origins
from mopt.passes.convert.torch_source import TorchSource
from mopt.runtime.contract import SourceError
from mopt.values import Location

torch = pytest.importorskip("torch")

MODELS = Path(__file__).parent / "models"


def module_of(file, name, *arguments):
    """Build a module by plain Python, as the reference that mopt has no hand in."""
    scope = {"__name__": f"reference_{file}"}
    exec(compile((MODELS / f"{file}.py").read_text(), str(MODELS / f"{file}.py"), "exec"), scope)
    return scope[name](*arguments).eval()


@pytest.fixture
def saved(tmp_path):
    """Save a module's weights and return their location."""

    def save(state, name):
        path = tmp_path / name
        if name.endswith(".safetensors"):
            from safetensors.torch import save_file

            save_file(state, path)
        else:
            torch.save(state, path)
        return Location(str(path), "")

    return save


def recogniser(seed=3):
    torch.manual_seed(seed)
    return module_of("small", "Recogniser")


def test_recurrent_model_keeps_batch_and_width_dynamic(kit, convert, run_onnx, close, saved):
    reference = recogniser()
    source = TorchSource(
        kit.factory("small.py:Recogniser"),
        kit.inputs(image="f32 N 1 8 W"),
        saved(reference.state_dict(), "w.safetensors"),
        outputs=("logits",),
    )
    module, notes = convert(source)
    assert [str(info) for info in module.inputs] == ["image: f32[N, 1, 8, W]"]
    assert [str(info) for info in module.outputs] == ["logits: f32[N, W, 5]"]
    # recurrent layers go through TorchScript, which has them as operators of their own
    assert any("exported by torchscript" in note for note in notes)
    assert sorted(node.op_type for node in module.nodes() if node.op_type in ("LSTM", "GRU")) == ["GRU", "LSTM", "LSTM"]
    for batch, width in ((1, 17), (5, 80)):
        image = np.random.default_rng(batch).normal(size=(batch, 1, 8, width)).astype(np.float32)
        with torch.no_grad():
            expected = reference(torch.from_numpy(image)).numpy()
        close(expected, run_onnx(module, {"image": image})["logits"])


def test_layers_are_origins_and_parameters_keep_their_names(kit, convert, saved):
    reference = recogniser()
    source = TorchSource(
        kit.factory("small.py:Recogniser"), kit.inputs(image="f32 N 1 8 W"), saved(reference.state_dict(), "w.pt")
    )
    module, _ = convert(source)
    by_operator = {}
    for node in module.nodes():
        by_operator.setdefault(node.op_type, []).append(origins(node))
    assert by_operator["Conv"] == [
        ("stem.0",), ("layer1.0.conv1",), ("layer1.0.conv2",), ("layer1.1.conv1",), ("layer1.1.conv2",),
    ]  # fmt: skip
    assert by_operator["LSTM"] == [("rnn",), ("rnn",)]
    assert by_operator["GRU"] == [("gru",)]
    assert by_operator["MatMul"] == [("head",)]
    names = {weight.name for weight in module.weights()}
    # the head's weight is stored transposed, the gates are stored in another order
    assert {
        "stem.0.weight",
        "layer1.1.conv2.bias",
        "head.weight",
        "head.bias",
        "rnn.weight_ih_l1",
        "gru.weight_hh_l0",
    } <= names
    stored = {weight.name: weight for weight in module.weights()}
    np.testing.assert_array_equal(stored["head.weight"].numpy(), reference.head.weight.detach().numpy().T)


def test_equal_tensors_stay_two_weights(kit, convert):
    """A fresh model's batch norms are equal; stored once, pruning one would prune both."""
    source = TorchSource(kit.factory("small.py:Recogniser"), kit.inputs(image="f32 N 1 8 W"))
    module, _ = convert(source)
    norms = [node for node in module.nodes() if node.op_type == "BatchNormalization"]
    assert len({node.inputs[1].name for node in norms}) == len(norms) == 3


def test_convolutional_model_goes_through_dynamo_with_batch_norms_kept(kit, convert):
    source = TorchSource(kit.factory("small.py:Block"), kit.inputs(x="f32 N 4 H W"), args={"width": 4})
    module, notes = convert(source)
    assert any("exported by dynamo" in note for note in notes)
    assert [node.op_type for node in module.nodes()] == [
        "Conv", "BatchNormalization", "Relu", "Conv", "Add", "Relu",
    ]  # fmt: skip
    assert str(module.outputs[0]) == "output: f32[N, 4, H, W]"


def test_graph_that_bakes_a_dimension_in_is_rejected(kit, convert):
    with pytest.raises(SourceError) as caught:
        convert(TorchSource(kit.factory("small.py:BatchInPython"), kit.inputs(x="f32 N 4")))
    message = str(caught.value)
    assert "dynamo: " in message
    assert "torchscript: at N=1 and N=3: max rel" in message
    assert "the limit is 0.0001" in message


def test_fixed_batch_of_the_same_model_converts(kit, convert):
    module, _ = convert(TorchSource(kit.factory("small.py:BatchInPython"), kit.inputs(x="f32 2 4")))
    assert str(module.inputs[0]) == "x: f32[2, 4]"


def test_keyword_inputs_dictionary_outputs_and_an_unused_input(kit, convert, run_onnx, close):
    torch.manual_seed(0)
    reference = module_of("small", "TwoHeads")
    source = TorchSource(kit.factory("small.py:TwoHeads"), kit.inputs(unused="f32 N 4", shift="f32 N 4", x="f32 N 4"))
    module, _ = convert(source)
    assert [info.name for info in module.inputs] == ["unused", "shift", "x"]
    assert [info.name for info in module.outputs] == ["left", "right_0", "right_1"]
    feeds = {name: np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) for name in ("unused", "shift", "x")}
    with torch.no_grad():
        expected = reference(torch.from_numpy(feeds["x"]), shift=torch.from_numpy(feeds["shift"]))
    got = run_onnx(module, feeds)
    close(expected["left"].numpy(), got["left"])
    close(expected["right"][0].numpy(), got["right_0"])


def test_state_between_calls_is_refused(kit, convert):
    with pytest.raises(SourceError, match="two outputs for one input"):
        convert(TorchSource(kit.factory("small.py:Counting"), kit.inputs(x="f32 N 4")))


def test_picky_sizes_are_found_or_asked_for(kit, convert, run_onnx):
    module, _ = convert(TorchSource(kit.factory("small.py:MultipleOf"), kit.inputs(x="f32 N W")))
    run_onnx(module, {"x": np.zeros((2, 36), np.float32)})
    module, notes = convert(TorchSource(kit.factory("small.py:MultipleOf"), kit.inputs(x="f32 N W"), sizes={"W": 36}))
    assert str(module.inputs[0]) == "x: f32[N, W]"
    assert "W=36" in notes[-1] or "W=36" in " ".join(notes)


def test_conversion_is_the_same_every_time(kit, convert, tmp_path):
    source = TorchSource(kit.factory("small.py:Mlp"), kit.inputs(features="f32 N 6"), exporter="torchscript")
    convert(source, seed=5)
    first = (tmp_path / "model.onnx").read_bytes()
    convert(source, seed=5)
    assert (tmp_path / "model.onnx").read_bytes() == first
    convert(source, seed=6)
    assert (tmp_path / "model.onnx").read_bytes() != first


def test_nothing_of_the_machine_is_left_in_the_file(kit, convert, tmp_path):
    convert(TorchSource(kit.factory("small.py:Block"), kit.inputs(x="f32 N 4 9 9"), args={"width": 4}))
    content = (tmp_path / "model.onnx").read_bytes()
    assert str(MODELS).encode() not in content
    assert b"site-packages" not in content
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)


def test_torchscript_file(kit, convert, run_onnx, close, tmp_path):
    reference = recogniser()
    path = tmp_path / "model.jit"
    torch.jit.trace(reference, torch.zeros(2, 1, 8, 20)).save(path)
    with pytest.raises(SourceError, match=r"needs `inputs=\{name: f32\[N, …\]\}`; its forward takes \(image\)"):
        convert(TorchSource(Location(str(path))))
    torch.jit.script(module_of("small", "Mlp")).save(path)
    reference = torch.jit.load(path)
    module, _ = convert(TorchSource(Location(str(path)), kit.inputs(features="f32 N 6")))
    features = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    close(reference(torch.from_numpy(features)).detach().numpy(), run_onnx(module, {"features": features})["output"])
    assert {"body.0.weight", "head.bias"} <= {weight.name for weight in module.weights()}


def test_exported_program(kit, convert, run_onnx, close, tmp_path):
    torch.manual_seed(1)
    reference = module_of("small", "Block", 4)
    path = tmp_path / "model.pt2"
    dims = {"x": {0: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}}
    torch.export.save(torch.export.export(reference, (torch.zeros(2, 4, 8, 9),), dynamic_shapes=dims), path)
    module, _ = convert(TorchSource(Location(str(path))))
    assert str(module.inputs[0]) == "x: f32[N, 4, 8, x_dim3]"
    module, _ = convert(TorchSource(Location(str(path)), kit.inputs(image="f32 B 4 8 W"), outputs=("y",)))
    assert [str(module.inputs[0]), str(module.outputs[0])] == ["image: f32[B, 4, 8, W]", "y: f32[B, 4, 8, W]"]
    image = np.random.default_rng(0).normal(size=(1, 4, 8, 21)).astype(np.float32)
    with torch.no_grad():
        close(reference(torch.from_numpy(image)).numpy(), run_onnx(module, {"image": image})["y"])
    assert {"conv1.weight", "bn1.running_mean"} <= {weight.name for weight in module.weights()}


def test_submodule(kit, convert):
    module, _ = convert(TorchSource(kit.factory("small.py:Wrapper"), kit.inputs(features="f32 N 6"), part="encoder"))
    assert str(module.outputs[0]) == "output: f32[N, 3]"
    with pytest.raises(SourceError, match="no submodule `encodr`; did you mean `encoder`"):
        convert(TorchSource(kit.factory("small.py:Wrapper"), kit.inputs(features="f32 N 6"), part="encodr"))


BAD_FACTORIES = {
    "missing": ("small.py:Recognizer", r"`small.py` has no `Recognizer`; did you mean `Recogniser`\?"),
    "no such file": ("smal.py:Mlp", r"smal\.py"),
    "returns None": ("small.py:nothing", r"`small.py:nothing` returned None instead of a torch.nn.Module"),
    "returns a tensor": ("small.py:tensor", r"returned a torch.Tensor instead of a torch.nn.Module"),
    "returns the class": ("small.py:the_class", r"returned the class `Mlp` itself.*call it: `return Mlp\(\)`"),
    "is no factory": ("small.py:number", r"`small.py:number` is an int, not a function or class"),
    "raises": (
        "small.py:fails",
        r"(?s)`small.py:fails` raised KeyError: 'missing key'\n  small.py:\d+ in fails: return _deeper.*"
        r"\n  small.py:\d+ in _deeper: return table\[\"missing key\"\]$",
    ),
    "exits": ("small.py:leaves", r"calls sys.exit\(7\)\n  small.py:\d+ in leaves: sys.exit\(7\)"),
    "raises in forward": (
        "small.py:RaisesInForward",
        r"(?s)raised ValueError: no such luck\n  small.py:\d+ in forward",
    ),
}


@pytest.mark.parametrize("case", BAD_FACTORIES)
def test_bad_factory(case, kit, convert):
    reference, message = BAD_FACTORIES[case]
    with pytest.raises(SourceError, match=message) as caught:
        convert(TorchSource(kit.factory(reference), kit.inputs(features="f32 N 6")))
    assert "user_code.py" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_bad_arguments_of_a_factory(kit, convert):
    with pytest.raises(SourceError, match=r"(?s)can't be called with hiden=3: .*its signature is \(inputs=6, hidden=8"):
        convert(TorchSource(kit.factory("small.py:Mlp"), kit.inputs(features="f32 N 6"), args={"hiden": 3}))


def test_broken_files(beside, convert):
    kit = beside(
        broken="import torch\ndef Net(:\n    pass\n",
        lost="import no_such_module_anywhere\n",
        early="import torch\nraise RuntimeError('at import')\n",
    )
    inputs = kit.inputs(x="f32 N 6")
    with pytest.raises(SourceError, match=r"syntax error at broken.py:2: .*\n    def Net\(:"):
        convert(TorchSource(kit.factory("broken.py:Net"), inputs))
    with pytest.raises(
        SourceError, match=r"imports `no_such_module_anywhere`, which is not installed and not beside it"
    ):
        convert(TorchSource(kit.factory("lost.py:Net"), inputs))
    with pytest.raises(SourceError, match=r"`early.py` raised RuntimeError: at import\n  early.py:2 in <module>"):
        convert(TorchSource(kit.factory("early.py:Net"), inputs))


def test_siblings_are_imported_from_the_recipe_folder(tmp_path, convert, kit, monkeypatch):
    monkeypatch.setattr(sys, "path", copy.copy(sys.path))
    (tmp_path / "nets").mkdir()
    (tmp_path / "recipe_sibling.py").write_text("WIDTH = 4\n")
    (tmp_path / "nets" / "near_sibling.py").write_text("from torch import nn\nLayer = nn.Linear\n")
    (tmp_path / "nets" / "network.py").write_text(
        "from recipe_sibling import WIDTH\nfrom near_sibling import Layer\n\ndef build():\n    return Layer(WIDTH, 2)\n"
    )
    from mopt.values import PythonRef

    module, _ = convert(
        TorchSource(PythonRef(Location("nets/network.py", str(tmp_path)), "build"), kit.inputs(x="f32 N 4"))
    )
    assert str(module.outputs[0]) == "output: f32[N, 2]"


def test_inputs_that_do_not_fit(kit, convert):
    factory = kit.factory("small.py:Mlp")
    with pytest.raises(SourceError, match=r"needs `inputs=\{name: f32\[N, …\]\}`; its forward takes \(features\)"):
        convert(TorchSource(factory))
    with pytest.raises(SourceError, match=r"called with features: float32\[2, 5\], raised RuntimeError: mat1 and mat2"):
        convert(TorchSource(factory, kit.inputs(features="f32 N 5")))
    with pytest.raises(SourceError, match="`outputs` names 2 outputs, but the model returns 1: `output`"):
        convert(TorchSource(factory, kit.inputs(features="f32 N 6"), outputs=("a", "b")))
    with pytest.raises(SourceError, match="`sizes` names `M`, no dynamic dimension"):
        convert(TorchSource(factory, kit.inputs(features="f32 N 6"), sizes={"M": 3}))


def test_stored_shapes_are_the_real_ones(beside, convert, tmp_path):
    """A fresh export of a vision transformer has stored shapes that disagree with what its operators give."""
    kit = beside(
        vit="""
import torch
from torch import nn

class Vit(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.encoder(x)[:, 0])
"""
    )
    module, _ = convert(TorchSource(kit.factory("vit.py:Vit"), kit.inputs(image="f32 N 3 16 16")))
    assert str(module.outputs[0]) == "output: f32[N, 2]"
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    layers = {layer for node in module.nodes() for layer in origins(node)}
    assert {"patch", "encoder.layers.0.self_attn", "encoder.layers.1.linear2", "head"} <= layers
    stored = {value.name: value.shape for node in module.nodes() for value in node.outputs if value.shape is not None}
    assert len(stored) > 20
