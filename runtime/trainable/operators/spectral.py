"""Fourier transforms, windows, and the matrix of mel weights."""

from __future__ import annotations

from math import pi
from typing import Final

import numpy as np
import torch
from mopt.runtime.trainable.element_types import torch_type
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch import Tensor

_WINDOWS: Final = {
    "HannWindow": (0.5, 0.5, 0.0), "HammingWindow": (25 / 46, 21 / 46, 0.0), "BlackmanWindow": (0.42, 0.5, 0.08),
}  # fmt: skip
"""Coefficients of a sum of cosines: a0 - a1·cos(2πn/N) + a2·cos(4πn/N)."""


def _signal(x: Tensor) -> Tensor:
    """[…, 1] is real, […, 2] holds real and imaginary parts. There is no transform of half precision on a CPU."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(wide.contiguous())


@operator("DFT", host=(1, 2))
def prepare_dft(call: Call) -> Compute:
    """The transform along one axis; forwards or backwards, of all frequencies or those that a real signal needs."""
    inverse, onesided = bool(call.attribute("inverse", 0)), bool(call.attribute("onesided", 0))
    fixed = call.attribute("axis", 1) if call.opset < 20 else None
    length_of, axis_of = call.integers(1), call.integers(2)

    def compute(x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
        given = axis_of(axis) if axis is not None else None
        along = (fixed if fixed is not None else given[0] if given else -2) % x.dim()
        sizes = length_of(length) if length is not None else None
        size = sizes[0] if sizes else None
        signal = _signal(x)
        if inverse and onesided:
            count = size or 2 * (x.shape[along] - 1)
            return torch.fft.irfft(signal, count, dim=along).unsqueeze(-1).to(x.dtype)
        if inverse:
            found = torch.fft.ifft(signal, size, dim=along)
        elif onesided and not signal.is_complex():
            found = torch.fft.rfft(signal, size, dim=along)
        else:
            found = torch.fft.fft(signal, size, dim=along)
            if onesided:
                found = found.narrow(along, 0, found.shape[along] // 2 + 1)
        return torch.view_as_real(found).to(x.dtype)

    return compute


@operator("STFT", host=(1, 3))
def prepare_stft(call: Call) -> Compute:
    """Windowed frames [N, frames, frequencies, 2] of a signal [N, T, 1 or 2]."""
    onesided = bool(call.attribute("onesided", 1))
    step_of, length_of = call.integers(1), call.integers(3)

    def compute(x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
        steps = step_of(step)
        sizes = length_of(length) if length is not None else None
        assert steps is not None
        size = sizes[0] if sizes else window.shape[0] if window is not None else x.shape[1]
        signal = _signal(x if x.dim() == 3 else x.unsqueeze(-1))
        frames = signal.unfold(1, size, steps[0])
        if window is not None:
            frames = frames * window.to(frames.real.dtype if frames.is_complex() else frames.dtype)
        if onesided and not frames.is_complex():
            found = torch.fft.rfft(frames, dim=-1)
        else:
            found = torch.fft.fft(frames, dim=-1)
            found = found[..., : size // 2 + 1] if onesided else found
        return torch.view_as_real(found).to(x.dtype)

    return compute


@operator(*_WINDOWS, host=(0,))
def prepare_window(call: Call) -> Compute:
    """A window of as many elements as asked for, periodic or symmetric."""
    a0, a1, a2 = _WINDOWS[call.node.op_type]
    periodic, dtype = bool(call.attribute("periodic", 1)), torch_type(call.attribute("output_datatype", 1))
    read = call.integers(0)

    def compute(size: Tensor) -> Tensor:
        counts = read(size)
        assert counts is not None
        turns = 2 * pi * torch.arange(counts[0], dtype=torch.float64) / (counts[0] if periodic else counts[0] - 1)
        return (a0 - a1 * torch.cos(turns) + a2 * torch.cos(2 * turns)).to(dtype)

    return compute


@operator("MelWeightMatrix", host=(0, 1, 2, 3, 4))
def prepare_mel_weights(call: Call) -> Compute:
    """Triangles, evenly spaced on the mel scale, over the frequencies of a transform: [frequencies, mel bins]."""
    dtype = torch_type(call.attribute("output_datatype", 1))

    def compute(bins: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
        count, size = int(bins), int(length)
        edges = [2595 * np.log10(1 + float(edge) / 700) for edge in (low, high)]
        # ONNX divides by bins + 2, so that the last triangle ends below the upper edge.
        mels = np.arange(count + 2) * ((edges[1] - edges[0]) / (count + 2)) + edges[0]
        hertz = 700 * (10 ** (mels / 2595) - 1)
        places = ((size + 1) * hertz // float(rate)).astype(np.int64)
        weights = np.zeros((size // 2 + 1, count))
        for number in range(count):
            left, centre, right = (int(place) for place in places[number : number + 3])
            if left == centre:
                weights[centre, number] = 1
            else:
                weights[left : centre + 1, number] = np.arange(centre - left + 1) / (centre - left)
            if right > centre:
                weights[centre:right, number] = np.arange(right - centre, 0, -1) / (right - centre)
        return torch.from_numpy(weights).to(dtype)

    return compute
