"""Small networks in ONNX's text form, for the tests of axis coupling."""

from __future__ import annotations

import numpy as np
import onnx.parser
from mopt.ir import from_proto
from onnx import numpy_helper


def network(signature, body, weights, opset=17, ints=()):
    """A module from ONNX's text form; `weights` are shapes of random floats, `ints` steer operators."""
    random = np.random.default_rng(7)
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')
    for name, shape in weights.items():
        array = random.normal(size=shape).astype(np.float32)
        if name.startswith("var"):
            array = np.abs(array) + 0.5
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, value in dict(ints).items():
        kind = np.float32 if name == "scales" else np.int64
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
    return from_proto(model)


IMAGE = "(float[N,3,8,8] x) => (float[N,5,a,b] y)"
LAST = {"w9": (5, 8, 1, 1)}
TOKENS = "(float[N,T,6] x) => (float[N,T,5] y)"
