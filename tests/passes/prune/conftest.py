"""What the tests of pruning share: a context that shows nothing, and modules in ONNX's text form."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.parser
import pytest
from mopt.ir import from_proto, to_proto
from mopt.runtime.data.splits import Samples
from onnx import numpy_helper


def _context(samples=(), seed=0, bindings=None):
    quiet = SimpleNamespace(advance=lambda steps=1: None, describe=lambda text: None)
    return SimpleNamespace(
        seed=seed,
        bindings=bindings or {},
        scratch=Path(),
        progress=lambda description, total=None: contextlib.nullcontext(quiet),
        split=lambda reference: Samples(list(samples), len(samples), str(reference)),
    )


def _text(signature, body, weights, opset=17, steering=None):
    imports = f'"" : {opset}, "acme" : 1' if "acme." in body else f'"" : {opset}'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> g {signature} {{ {body} }}")
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    for name, value in (steering or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.int64), name))
    return from_proto(model)


@pytest.fixture(scope="session")
def context():
    """`context(samples, seed)`: what a pass asks of the compiler; every data reference names the samples."""
    return _context


@pytest.fixture(scope="session")
def module_of():
    """`module_of(signature, body, weights, opset, steering)`: a module; weights are floats, steering is integers."""
    return _text


@pytest.fixture(scope="session")
def bits():
    """`bits(module)`: a module as bytes."""
    return lambda module: to_proto(module).SerializeToString(deterministic=True)
