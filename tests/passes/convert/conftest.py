"""What the tests of sources share: short forms of recipe values, and onnxruntime without any of mopt in between."""

from pathlib import Path

import numpy as np
import pytest
from mopt.ir import load
from mopt.values import Location, PythonRef, TensorType

MODELS = Path(__file__).parent / "models"


class Kit:
    """Recipe values from short texts, relative to `base`."""

    def __init__(self, base):
        self.base = base

    def at(self, text):
        return Location(text, str(self.base))

    def factory(self, text):
        file, _, attribute = text.rpartition(":")
        return PythonRef(Location(file, str(self.base)), attribute)

    @staticmethod
    def inputs(**types):
        """`inputs(image="f32 N 3 H W")`."""
        read = {}
        for name, text in types.items():
            dtype, *dims = text.split()
            read[name] = TensorType(dtype, tuple(int(dim) if dim.isdigit() else dim for dim in dims))
        return read


@pytest.fixture
def kit():
    return Kit(MODELS)


@pytest.fixture
def beside(tmp_path):
    """A kit whose files are written by the test: `beside(name=text)`."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return Kit(tmp_path)

    return write


@pytest.fixture
def convert(tmp_path):
    """Convert a PyTorch source in this process (a second one per test would take most of the time)."""
    import torch
    from mopt.passes.convert.torch_convert import convert_torch

    torch.set_num_threads(1)

    def run(source, seed=0):
        notes = convert_torch(source, tmp_path, seed, lambda text: None)
        return load(tmp_path / "model.onnx"), notes

    return run


@pytest.fixture
def run_onnx():
    """Run a file or a module with plain onnxruntime."""

    def run(model, feeds):
        import onnxruntime as ort
        from mopt.ir import to_proto

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        content = str(model) if isinstance(model, Path) else to_proto(model).SerializeToString()
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run


@pytest.fixture
def close():
    """Compare within a share of the expected output's range, and make sure that range is not nil."""

    def compare(expected, actual, relative=1e-4):
        assert expected.shape == actual.shape
        spread = float(np.ptp(expected)) or float(np.abs(expected).max())
        assert spread > 0, "an output of nothing but zeros proves nothing"
        assert float(np.abs(expected - actual).max()) <= relative * spread

    return compare
