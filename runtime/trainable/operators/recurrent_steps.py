"""Recurrences computed one time step after the other: every form that ONNX defines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Call, UnsupportedOperatorError
from torch import Tensor
from torch.nn import functional

_PARAMETERS: Final[dict[str, tuple[float | None, float | None]]] = {
    "affine": (1.0, 0.0), "leakyrelu": (0.01, None), "thresholdedrelu": (1.0, None), "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5), "elu": (1.0, None), "relu": (None, None), "tanh": (None, None),
    "sigmoid": (None, None), "softsign": (None, None), "softplus": (None, None),
}  # fmt: skip
"""Activation → the defaults of alpha and beta, None where it has no such parameter."""
_FUNCTIONS: Final[dict[str, Callable[[Tensor, Any, Any], Tensor]]] = {
    "affine": lambda x, a, b: a * x + b,
    "leakyrelu": lambda x, a, _: functional.leaky_relu(x, a),
    "thresholdedrelu": lambda x, a, _: torch.where(x > a, x, torch.zeros_like(x)),
    "scaledtanh": lambda x, a, b: a * torch.tanh(b * x),
    "hardsigmoid": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "elu": lambda x, a, _: functional.elu(x, a),
    "relu": lambda x, _, __: torch.relu(x),
    "tanh": lambda x, _, __: torch.tanh(x),
    "sigmoid": lambda x, _, __: torch.sigmoid(x),
    "softsign": lambda x, _, __: functional.softsign(x),
    "softplus": lambda x, _, __: functional.softplus(x),
}


@dataclass(frozen=True)
class Activation:
    """An activation function with its parameters; `clip` bounds what goes in (0: nothing does)."""

    name: str
    alpha: float | None
    beta: float | None
    clip: float

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        if self.clip:
            x = x.clamp(-self.clip, self.clip)
        return _FUNCTIONS[self.name](x, self.alpha, self.beta)


@dataclass(frozen=True)
class Recurrence:
    """The attributes of an LSTM, GRU or RNN; `activations` holds one tuple for each direction."""

    kind: str
    directions: int
    reverse: bool
    batch_first: bool
    activations: tuple[tuple[Activation, ...], ...]
    clip: float
    input_forget: bool
    linear_before_reset: bool

    @classmethod
    def of(cls, call: Call, kind: str, defaults: tuple[str, ...]) -> Recurrence:
        """Read a node."""
        direction = call.attribute("direction", "forward")
        directions = 2 if direction == "bidirectional" else 1
        names = [name.lower() for name in call.attribute("activations", ())] or list(defaults) * directions
        alphas = list(call.attribute("activation_alpha", ()))
        betas = list(call.attribute("activation_beta", ()))
        clip = call.attribute("clip", 0.0)
        found = []
        for name in names:
            if name not in _PARAMETERS:
                raise UnsupportedOperatorError(f"activation `{name}`")
            alpha, beta = _PARAMETERS[name]
            # The lists hold values for those functions only that take one.
            alpha = alphas.pop(0) if alpha is not None and alphas else alpha
            beta = betas.pop(0) if beta is not None and betas else beta
            found.append(Activation(name, alpha, beta, clip))
        each = len(defaults)
        if each == 3:  # only gates are clipped, as onnxruntime has it: not the cell on its way out
            found = [replace(one, clip=0.0) if place % 3 == 2 else one for place, one in enumerate(found)]
        return cls(
            kind,
            directions,
            direction == "reverse",
            bool(call.attribute("layout", 0)),
            tuple(tuple(found[each * place : each * (place + 1)]) for place in range(directions)),
            clip,
            bool(call.attribute("input_forget", 0)),
            bool(call.attribute("linear_before_reset", 0)),
        )


States = tuple[Tensor, ...]
Advance = Callable[[Tensor, States], States]


def by_steps(recurrence: Recurrence) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function of X [T, N, I], W, R, B, lengths, h, c, P (all in ONNX's layout 0) to Y, Y_h (and Y_c)."""
    begin = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[recurrence.kind]

    def compute(
        x: Tensor, w: Tensor, r: Tensor, bias: Any, lengths: Any, h: Tensor, c: Tensor, p: Any
    ) -> tuple[Tensor, ...]:
        sequences, finals = [], []
        ends = None if lengths is None else lengths.to(x.device).reshape(-1, 1)
        for place in range(recurrence.directions):
            own = None if bias is None else bias[place]
            projected, advance = begin(recurrence, place, x, w[place], r[place], own, None if p is None else p[place])
            states: States = (h[place], c[place]) if recurrence.kind == "LSTM" else (h[place],)
            outputs: list[Tensor] = []
            backward = recurrence.reverse or place == 1
            order = range(x.shape[0] - 1, -1, -1) if backward else range(x.shape[0])
            for step in order:
                after = advance(projected[step], states)
                output = after[0]
                if ends is not None:
                    runs = step < ends
                    after = tuple(torch.where(runs, new, old) for new, old in zip(after, states, strict=True))
                    output = torch.where(runs, output, torch.zeros_like(output))
                states = after
                outputs.append(output)
            if ends is not None:  # a sequence of no steps ends in zeros, not in its initial state (onnxruntime)
                states = tuple(torch.where(ends > 0, state, torch.zeros_like(state)) for state in states)
            sequences.append(torch.stack(outputs[::-1] if backward else outputs))
            finals.append(states)
        return torch.stack(sequences, 1), *(torch.stack(parts) for parts in zip(*finals, strict=True))

    return compute


def _halves(bias: Tensor | None) -> tuple[Any, Any]:
    return (0.0, 0.0) if bias is None else tuple(bias.chunk(2))


def _rnn(
    recurrence: Recurrence, place: int, x: Tensor, w: Tensor, r: Tensor, bias: Any, _: Any
) -> tuple[Tensor, Advance]:
    (f,) = recurrence.activations[place]
    first, second = _halves(bias)

    def advance(given: Tensor, states: States) -> States:
        return (f(given + states[0] @ r.T),)

    return x @ w.T + (first + second), advance


def _gru(
    recurrence: Recurrence, place: int, x: Tensor, w: Tensor, r: Tensor, bias: Any, _: Any
) -> tuple[Tensor, Advance]:
    f, g = recurrence.activations[place]
    first, second = _halves(bias)
    size = r.shape[-1]
    gates, candidate = r[: 2 * size], r[2 * size :]
    shift = second[2 * size :] if bias is not None else 0.0
    inner = second[: 2 * size] if bias is not None else 0.0

    def advance(given: Tensor, states: States) -> States:
        (h,) = states
        update, reset = f(given[:, : 2 * size] + h @ gates.T + inner).chunk(2, -1)
        if recurrence.linear_before_reset:
            recalled = reset * (h @ candidate.T + shift)
        else:
            recalled = (reset * h) @ candidate.T + shift
        new = g(given[:, 2 * size :] + recalled)
        return ((1 - update) * new + update * h,)

    return x @ w.T + first, advance


def _lstm(
    recurrence: Recurrence, place: int, x: Tensor, w: Tensor, r: Tensor, bias: Any, p: Any
) -> tuple[Tensor, Advance]:
    f, g, last = recurrence.activations[place]
    first, second = _halves(bias)
    pi, po, pf = (0.0, 0.0, 0.0) if p is None else p.chunk(3)

    def advance(given: Tensor, states: States) -> States:
        h, c = states
        i, o, forget, new = (given + h @ r.T).chunk(4, -1)
        let_in = f(i + pi * c)
        keep = 1 - let_in if recurrence.input_forget else f(forget + pf * c)
        cell = keep * c + let_in * g(new)
        return f(o + po * cell) * last(cell), cell

    return x @ w.T + (first + second), advance
