"""What the tests of the trainable runner share: real networks in PyTorch and as graphs, small graphs from text."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from mopt.ir import from_proto
from mopt.values import Location

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

REFERENCES = Path(__file__).resolve().parents[2] / "passes" / "convert" / "models"


def pytorch_network(reference, weights):
    """A module of the tests' own definitions with published weights, in evaluation mode."""
    file, _, name = reference.partition(":")
    spec = importlib.util.spec_from_file_location(f"reference_{file.removesuffix('.py')}", REFERENCES / file)
    scope = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scope)
    network = getattr(scope, name)()
    path = Location(weights).resolve()
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()}, strict=False)
    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return network.eval()


def exported(network, feeds, outputs, path):
    """The network as a graph that keeps its weights as they are: nothing folded, nothing fused."""
    torch.onnx.export(
        network, tuple(feeds.values()), str(path), input_names=list(feeds), output_names=list(outputs),
        opset_version=17, dynamo=False, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
        dynamic_axes={name: {0: "N"} for name in feeds},
    )  # fmt: skip
    from mopt.ir import load

    return load(path)


@pytest.fixture
def network():
    return pytorch_network


@pytest.fixture
def export(tmp_path):
    return lambda network, feeds, outputs: exported(network, feeds, outputs, tmp_path / "model.onnx")


@pytest.fixture
def parse():
    """A module from ONNX's own text, with arrays in place of the initialisers it names."""

    def read(text, **weights):
        model = onnx.parser.parse_model(text)
        for name, array in weights.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        onnx.checker.check_model(model)
        return from_proto(model)

    return read
