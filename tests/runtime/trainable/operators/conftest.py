"""Models of one node, and running them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from mopt.ir import from_proto
from mopt.runtime.trainable.runner import TrainableModule
from onnx import helper


@pytest.fixture
def single_node():
    """Return a function that makes a model of one node from example inputs (None: absent)."""

    def make(
        op_type: str,
        inputs: list[Any],
        outputs: int = 1,
        *,
        domain: str = "",
        version: int = 21,
        output_types: tuple[Any, ...] = (),
        **attributes: Any,
    ) -> onnx.ModelProto:
        names = ["" if array is None else f"x{place}" for place, array in enumerate(inputs)]
        node = helper.make_node(op_type, names, [f"y{n}" for n in range(outputs)], domain=domain, **attributes)
        declared = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype), array.shape)
            for name, array in zip(names, inputs, strict=True)
            if name
        ]
        types = output_types or (onnx.TensorProto.FLOAT,) * outputs
        results = [helper.make_tensor_value_info(f"y{n}", types[n], None) for n in range(outputs)]
        imports = [helper.make_opsetid("", version)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        graph = helper.make_graph([node], "one node", declared, results)
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    return make


@pytest.fixture
def run_node():
    """Return a function that runs such a model on tensors, in the order of its inputs; None where one is absent."""

    def run(model: onnx.ModelProto, inputs: list[Any]) -> list[torch.Tensor]:
        runner = TrainableModule(from_proto(model), trainable=False).eval()
        feeds = {f"x{place}": value for place, value in enumerate(inputs) if value is not None}
        results = runner(feeds)
        return [results[output.name] for output in model.graph.output]

    return run
