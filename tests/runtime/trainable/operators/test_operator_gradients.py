"""Gradients of single operators against finite differences, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mopt.ir import from_proto
from mopt.runtime.trainable.runner import TrainableModule
from onnx import TensorProto, helper

RANDOM = np.random.default_rng(11)


def real(*shape):
    return RANDOM.normal(size=shape)


def integers(*values):
    return np.array(values, np.int64)


IMAGE = (1, 2, 5, 4)

CASES = {
    "AveragePool": ({"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "count_include_pad": 1}, [real(*IMAGE)]),
    "AveragePool ceil": ({"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, [real(*IMAGE)]),
    "MaxPool": ({"kernel_shape": [2, 2], "pads": [1, 0, 0, 1]}, [real(*IMAGE)]),
    "LpPool": ({"kernel_shape": [2, 2], "p": 3}, [real(*IMAGE)]),
    "GlobalAveragePool": ({}, [real(*IMAGE)]),
    "GlobalMaxPool": ({}, [real(*IMAGE)]),
    "GlobalLpPool": ({"p": 2}, [real(*IMAGE)]),
    "Resize nearest": ({"mode": "nearest"}, [real(*IMAGE), None, None, integers(1, 2, 7, 6)]),
    "Resize linear": ({"mode": "linear"}, [real(*IMAGE), None, None, integers(1, 2, 7, 3)]),
    "Resize cubic": (
        {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
        [real(*IMAGE), None, None, integers(1, 2, 8, 6)],
    ),
    "Resize antialias": ({"mode": "linear", "antialias": 1}, [real(*IMAGE), None, None, integers(1, 2, 2, 3)]),
    "ConvTranspose": ({"strides": [2, 1], "output_padding": [1, 0]}, [real(1, 2, 3, 3), real(2, 2, 3, 2), real(2)]),
    "ConvTranspose cropped": (
        {"strides": [2, 2], "output_shape": [4, 5]},
        [real(1, 2, 3, 3), real(2, 2, 3, 2), real(2)],
    ),
    "DeformConv": (
        {"kernel_shape": [2, 2]},
        [real(1, 2, 3, 3), real(2, 2, 2, 2), 0.3 * real(1, 8, 2, 2) + 0.05, real(2), real(1, 4, 2, 2)],
    ),
    "Col2Im": ({"pads": [1, 0, 1, 0]}, [real(1, 8, 12), integers(3, 4), integers(2, 2)]),
    "CausalConvWithState": ({"activation": "silu"}, [real(1, 2, 4), real(2, 1, 3), real(2), real(1, 2, 2)]),
    "LSTM": (
        {"hidden_size": 3, "direction": "bidirectional"},
        [real(3, 2, 2), real(2, 12, 2), real(2, 12, 3), real(2, 24)],
    ),
    "LSTM peepholes": (
        {"hidden_size": 2},
        [real(3, 2, 2), real(1, 8, 2), real(1, 8, 2), real(1, 16), None, real(1, 2, 2), real(1, 2, 2), real(1, 6)],
    ),
    "LSTM lengths": (
        {"hidden_size": 2, "direction": "reverse"},
        [real(4, 2, 2), real(1, 8, 2), real(1, 8, 2), real(1, 16), np.array([4, 2], np.int32)],
    ),
    "GRU": ({"hidden_size": 2, "linear_before_reset": 1}, [real(3, 2, 2), real(1, 6, 2), real(1, 6, 2), real(1, 12)]),
    "GRU reset first": ({"hidden_size": 2}, [real(3, 2, 2), real(1, 6, 2), real(1, 6, 2), real(1, 12)]),
    "RNN": ({"hidden_size": 2, "direction": "reverse"}, [real(3, 2, 2), real(1, 2, 2), real(1, 2, 2), real(1, 4)]),
    "ReduceSum": ({}, [real(2, 3, 2), integers(0, 2)]),
    "ReduceMean": ({"keepdims": 0}, [real(2, 3, 2), integers(1)]),
    "ReduceProd": ({}, [real(2, 3, 2), integers(0, 1)]),
    "ReduceMax": ({}, [real(2, 3, 2), integers(1)]),
    "ReduceMin": ({}, [real(2, 3, 2), integers(-1)]),
    "ReduceL1": ({}, [real(2, 3), integers(1)]),
    "ReduceL2": ({}, [real(2, 3), integers(1)]),
    "ReduceLogSum": ({}, [np.abs(real(2, 3)) + 0.5, integers(1)]),
    "ReduceLogSumExp": ({}, [real(2, 3), integers(1)]),
    "ReduceSumSquare": ({}, [real(2, 3), integers(1)]),
    "DequantizeLinear": ({"axis": 1}, [integers(3, -5, 7, 1, 0, 100).reshape(2, 3).astype(np.int8), real(3)]),
    "DFT": ({"onesided": 1}, [real(1, 6, 1), None, integers(1).reshape(())]),
    "STFT": ({}, [real(1, 12, 1), integers(3).reshape(()), real(6)]),
    "GridSample": ({"mode": "linear"}, [real(1, 2, 4, 4), 0.7 * np.tanh(real(1, 3, 3, 2))]),
    "GridSample cubic": (
        {"mode": "cubic", "padding_mode": "border"},
        [real(1, 1, 4, 4), 0.4 * np.tanh(real(1, 2, 2, 2))],
    ),
    "AffineGrid": ({}, [real(1, 2, 3), integers(1, 1, 3, 2)]),
    "CenterCropPad": ({"axes": [0, 1]}, [real(4, 3), integers(2, 5)]),
    "RoiAlign": (
        {"output_height": 2, "output_width": 2, "sampling_ratio": 2},
        [real(1, 2, 6, 6), np.array([[0.6, 0.7, 4.1, 4.3]]), integers(0)],
    ),
    "Attention": ({"is_causal": 1}, [real(1, 4, 3, 2), real(1, 2, 3, 2), real(1, 2, 3, 2)]),
    "Attention cap": (
        {"softcap": 2.0},
        [real(1, 2, 3, 2), real(1, 2, 3, 2), real(1, 2, 3, 2), real(3, 3)],
    ),
    "RotaryEmbedding": ({}, [real(1, 2, 3, 4), real(5, 2), real(5, 2), integers(0, 2, 4).reshape(1, 3)]),
    "SwiGLU": ({"alpha": 1.3}, [real(2, 3), real(2, 3)]),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name, single_node):
    attributes, inputs = CASES[name]
    model = single_node(name.split()[0], inputs, output_types=(TensorProto.DOUBLE,), version=25, **attributes)
    runner = TrainableModule(from_proto(model), trainable=False).eval()
    tensors = [None if array is None else torch.from_numpy(np.array(array)) for array in inputs]
    places = [place for place, tensor in enumerate(tensors) if tensor is not None and tensor.is_floating_point()]
    if name.startswith("RoiAlign"):
        places.remove(1)  # the number of samples jumps with the box
    for place in places:
        tensors[place].requires_grad_()

    def compute(*given):
        feeds = {f"x{place}": tensor for place, tensor in enumerate(tensors) if tensor is not None}
        feeds.update({f"x{place}": tensor for place, tensor in zip(places, given, strict=True)})
        return runner(feeds)["y0"]

    assert places
    assert torch.autograd.gradcheck(compute, [tensors[place] for place in places], fast_mode=True)


def quantised(single_node):
    """A quantiser and a dequantiser, both with scale 0.5 at run time."""
    model = single_node("QuantizeLinear", [np.zeros(4, np.float32), np.array(0.5, np.float32), np.array(0, np.int8)])
    model.graph.node[0].output[0] = "levels"
    model.graph.node.append(helper.make_node("DequantizeLinear", ["levels", "x1", "x2"], ["y0"]))
    return model


def test_quantisers_pass_gradients_straight_through_inside_their_range(single_node, run_node):
    x = torch.tensor([0.3, -1.26, 63.0, 80.0], requires_grad=True)
    (y,) = run_node(quantised(single_node), [x, torch.tensor(0.5), torch.tensor(0, dtype=torch.int8)])
    assert y.tolist() == [0.5, -1.5, 63.0, 63.5]
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0, 0.0]
