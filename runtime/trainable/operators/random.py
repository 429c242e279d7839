"""Random tensors, drawn from torch's generator; a node that names a seed has one of its own, begun from it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import torch
from mopt.runtime.trainable.element_types import torch_type
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch import Tensor


def _generator(call: Call) -> Callable[[torch.device], torch.Generator | None]:
    seed = call.attribute("seed")
    made: dict[torch.device, torch.Generator] = {}

    def generator(device: torch.device) -> torch.Generator | None:
        if seed is None:
            return None
        if device not in made:
            # A float in ONNX: its bits, so that seeds that differ after the point differ.
            made[device] = torch.Generator(device).manual_seed(int.from_bytes(_bits(seed), "little", signed=True))
        return made[device]

    return generator


def _bits(seed: float) -> bytes:
    return struct.pack("<d", seed)


def _draw(call: Call) -> Callable[[Any, torch.dtype, torch.device], Tensor]:
    generator = _generator(call)
    if "Normal" in call.node.op_type:
        mean, deviation = call.attribute("mean", 0.0), call.attribute("scale", 1.0)

        def draw(shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
            return torch.randn(shape, dtype=dtype, device=device, generator=generator(device)) * deviation + mean

    else:
        low, high = call.attribute("low", 0.0), call.attribute("high", 1.0)

        def draw(shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
            return torch.rand(shape, dtype=dtype, device=device, generator=generator(device)) * (high - low) + low

    return draw


@operator("RandomNormal", "RandomUniform")
def prepare_random(call: Call) -> Compute:
    """A tensor of a fixed shape."""
    draw, shape = _draw(call), call.attribute("shape")
    dtype = torch_type(call.attribute("dtype", 1))
    mode = call.mode
    return lambda: draw(shape, dtype, getattr(mode, "device", None) or torch.device("cpu"))


@operator("RandomNormalLike", "RandomUniformLike")
def prepare_random_like(call: Call) -> Compute:
    """A tensor of another one's shape."""
    draw, code = _draw(call), call.attribute("dtype")
    dtype = None if code is None else torch_type(code)
    return lambda x: draw(x.shape, dtype or x.dtype, x.device)


@operator("Bernoulli")
def prepare_bernoulli(call: Call) -> Compute:
    """One with the given probability, else zero."""
    generator, code = _generator(call), call.attribute("dtype")
    dtype = None if code is None else torch_type(code)

    def compute(x: Tensor) -> Tensor:
        chance = x.detach()
        return torch.bernoulli(chance, generator=generator(x.device)).to(dtype or x.dtype)

    return compute


@operator("Multinomial")
def prepare_multinomial(call: Call) -> Compute:
    """Classes drawn with replacement, by unnormalised logarithms of their probabilities."""
    generator, count = _generator(call), call.attribute("sample_size", 1)
    dtype = torch_type(call.attribute("dtype", 6))

    def compute(x: Tensor) -> Tensor:
        chance = torch.softmax(x.detach().float(), -1)
        return torch.multinomial(chance, count, replacement=True, generator=generator(x.device)).to(dtype)

    return compute
