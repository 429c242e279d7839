"""LSTM, GRU and RNN: by torch's own kernels where these compute the same, step by step otherwise.

Weights stay in ONNX's order of gates, so that gradients and trained values are in it too; torch's order is made by
slicing at every call, which costs next to nothing beside the recurrence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from mopt.runtime.trainable.operators.recurrent_steps import Recurrence, by_steps
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

_GATES: Final = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""For each of torch's gates (i f g o, r z n) its place in ONNX's order (i o f c, z r h)."""
_DEFAULTS: Final = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}


@operator("LSTM", "GRU", "RNN", host=(4,))
def prepare_recurrence(call: Call) -> Compute:
    """Every direction, layout, activation, clipping, peepholes, lengths of sequences."""
    return recurrence_of(call, call.node.op_type)


def recurrence_of(call: Call, kind: str) -> Compute:
    """Prepare a node as an `LSTM`, `GRU` or `RNN`, whatever its own name is."""
    recurrence = Recurrence.of(call, kind, _DEFAULTS[kind])
    kernel = _kernel(recurrence)
    stepped = by_steps(recurrence)

    def compute(
        x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None, *rest: Tensor | None
    ) -> tuple[Tensor, ...]:
        h, c, p = (*rest, None, None, None)[:3]
        if recurrence.batch_first:
            x = x.transpose(0, 1)
            h, c = (None if state is None else state.transpose(0, 1) for state in (h, c))
        if lengths is not None and int(lengths.min()) == x.shape[0]:
            lengths = None
        zero = x.new_zeros(recurrence.directions, x.shape[1], r.shape[-1])
        h = zero if h is None else h
        c = zero if c is None else c
        if kernel is None or p is not None or (lengths is not None and int(lengths.min()) == 0):
            found = stepped(x, w, r, bias, lengths, h, c, p)
        else:
            found = kernel(x, w, r, bias, lengths, h, c)
        if recurrence.batch_first:
            return (found[0].permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in found[1:]))
        return found

    return compute


def _kernel(recurrence: Recurrence) -> Callable[..., tuple[Tensor, ...]] | None:
    """torch's kernel for this form, or None where it has none."""
    kind = recurrence.kind
    if recurrence.clip or recurrence.input_forget or (kind == "GRU" and not recurrence.linear_before_reset):
        return None
    names = {tuple(activation.name for activation in found) for found in recurrence.activations}
    if names == {_DEFAULTS[kind]}:
        run = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN": torch.rnn_tanh}[kind]
    elif names == {("relu",)}:
        run = torch.rnn_relu
    else:
        return None
    return _Native(run, recurrence)


@dataclass
class _Native:
    run: Callable[..., Any]
    recurrence: Recurrence

    def __call__(
        self, x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None, lengths: Tensor | None, h: Tensor, c: Tensor
    ) -> tuple[Tensor, ...]:
        kind, directions = self.recurrence.kind, self.recurrence.directions
        weights = self._weights(w, r, bias)
        initial: Any = (h, c) if kind == "LSTM" else h
        # The kernels for accelerators only keep what a backward pass needs when told that they train.
        tail = (bias is not None, 1, 0.0, torch.is_grad_enabled(), directions == 2)
        backward = self.recurrence.reverse
        if lengths is None:
            y, *states = self.run(x.flip(0) if backward else x, initial, weights, *tail, False)
            y = y.flip(0) if backward else y
        else:
            y, states = self._packed(x, lengths, initial, weights, tail, backward)
        y = y.reshape(*y.shape[:2], directions, -1).transpose(1, 2)
        return (y, *states)

    def _packed(
        self, x: Tensor, lengths: Tensor, initial: Any, weights: list[Tensor], tail: tuple[Any, ...], backward: bool
    ) -> tuple[Tensor, list[Tensor]]:
        total = x.shape[0]
        source = _reversed(x, lengths) if backward else x
        packed = pack_padded_sequence(source, lengths.cpu().long(), enforce_sorted=False)
        order = packed.sorted_indices
        given = tuple(s[:, order] for s in initial) if isinstance(initial, tuple) else initial[:, order]
        data, *states = self.run(packed.data, packed.batch_sizes, given, weights, *tail)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(
            torch.nn.utils.rnn.PackedSequence(data, packed.batch_sizes, order, packed.unsorted_indices),
            total_length=total,
        )
        states = [state[:, packed.unsorted_indices] for state in states]
        return (_reversed(y, lengths) if backward else y), states

    def _weights(self, w: Tensor, r: Tensor, bias: Tensor | None) -> list[Tensor]:
        gates = _GATES[self.recurrence.kind]
        found = []
        for direction in range(self.recurrence.directions):
            found += [_in_order(w[direction], gates), _in_order(r[direction], gates)]
            if bias is not None:
                found += [_in_order(part, gates) for part in bias[direction].chunk(2)]
        return found


def _in_order(matrix: Tensor, gates: Sequence[int]) -> Tensor:
    if len(gates) == 1:
        return matrix
    parts = matrix.chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


def _reversed(x: Tensor, lengths: Tensor) -> Tensor:
    """Turn every sequence [T, N, …] round within its own length; what follows it stays where it is."""
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    ends = lengths.to(x.device).long().unsqueeze(0)
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    return x.gather(0, places.unsqueeze(-1).expand(x.shape))
