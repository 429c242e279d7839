"""onnxruntime's own attention operators (domain com.microsoft)."""

from __future__ import annotations

from math import sqrt
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Call, Compute, UnsupportedOperatorError, operator
from mopt.runtime.trainable.operators.attention import join_heads, rotary, split_heads
from torch import Tensor
from torch.nn import functional

DOMAIN: Final = "com.microsoft"


class _Scores:
    """What both operators do with heads [N, H, T, D]: masks add a large negative number, not infinity."""

    def __init__(self, call: Call) -> None:
        self.heads = call.attribute("num_heads")
        self._scale = call.attribute("scale", 0.0)
        self._causal = bool(call.attribute("unidirectional", 0))
        self._filler = call.attribute("mask_filter_value", -10000.0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        added = bias
        if mask is not None:
            barred = self._barred(mask, k.shape[2])
            added = barred if added is None else added + barred
        if self._causal:
            ahead = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
            later = torch.zeros((), device=q.device).masked_fill(
                ahead.triu(k.shape[2] - q.shape[2] + 1), torch.finfo(q.dtype).min
            )
            added = later if added is None else added + later
        if added is not None:
            added = added.to(q.dtype)
            while added.dim() < 4:
                added = added.unsqueeze(0)
        scale = self._scale or 1 / sqrt(q.shape[-1])
        return join_heads(functional.scaled_dot_product_attention(q, k, v, added, scale=scale))

    def _barred(self, mask: Tensor, total: int) -> Tensor:
        """A mask [N] of lengths, [N, L] or [N, T, L] of ones and zeros → [N, 1, 1 or T, L] to add."""
        if mask.dim() == 1:
            seen = torch.arange(total, device=mask.device) < mask.reshape(-1, 1, 1, 1)
        elif mask.dim() == 2:
            seen = mask[:, None, None, :] > 0
        else:
            seen = mask.unsqueeze(1) > 0 if mask.dim() == 3 else mask > 0
        return torch.zeros((), device=mask.device).masked_fill(~seen, self._filler)


@operator("Attention", domain=DOMAIN)
def prepare_attention(call: Call) -> Compute:
    """Projections of one input to queries, keys and values, and attention among them."""
    if call.attribute("do_rotary", 0) or call.attribute("past_present_share_buffer", 0):
        raise UnsupportedOperatorError("attention with rotary positions or a shared cache in one node")
    scores = _Scores(call)
    sizes = list(call.attribute("qkv_hidden_sizes", ()))

    def compute(
        x: Tensor,
        weights: Tensor,
        shift: Tensor | None = None,
        mask: Tensor | None = None,
        past: Tensor | None = None,
        bias: Tensor | None = None,
        *_: Any,
    ) -> tuple[Tensor, Tensor]:
        projected = torch.matmul(x, weights)
        projected = projected if shift is None else projected + shift
        widths = sizes or [projected.shape[-1] // 3] * 3
        q, k, v = (split_heads(part, scores.heads) for part in projected.split(widths, -1))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        present = torch.stack([k, v]) if k.shape == v.shape else k
        return scores.attend(q, k, v, mask, bias), present

    return compute


@operator("MultiHeadAttention", domain=DOMAIN)
def prepare_multi_head_attention(call: Call) -> Compute:
    """Attention of projected queries, keys and values; packed or apart, with a bias of the projections."""
    scores = _Scores(call)
    if call.outputs > 3 or call.has(8):
        raise UnsupportedOperatorError("attention that gives its scores, or writes to a cache of fixed size")

    def compute(q: Tensor, k: Any = None, v: Any = None, shift: Any = None, mask: Any = None, *rest: Any) -> Any:
        bias, past_k, past_v = (*rest, None, None, None)[:3]
        q, k, v = _heads(q, k, v, shift, scores.heads)
        if past_k is not None:
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        return scores.attend(q, k, v, mask, bias), k, v

    return compute


def _heads(q: Tensor, k: Any, v: Any, shift: Any, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    if q.dim() == 5:  # [N, T, H, 3, D]
        parts = [part.transpose(1, 2) for part in q.unbind(3)]
    elif k.dim() == 5:  # [N, L, H, 2, D]
        parts = [split_heads(q, heads), *(part.transpose(1, 2) for part in k.unbind(3))]
    else:
        parts = [part if part.dim() == 4 else split_heads(part, heads) for part in (q, k, v)]
    if shift is not None:
        widths = [part.shape[1] * part.shape[3] for part in parts]
        shifts = [each.unflatten(0, (heads, 1, -1)) for each in shift.split(widths)]
        parts = [part + own for part, own in zip(parts, shifts, strict=True)]
    return parts[0], parts[1], parts[2]


@operator("RotaryEmbedding", domain=DOMAIN)
def prepare_rotary_embedding(call: Call) -> Compute:
    """Rotary positions; one position for all of a batch counts on from it."""
    if call.attribute("is_packed_batching", 0) or call.attribute("scale", 1.0) != 1.0:
        raise UnsupportedOperatorError("rotary positions of ragged batches, or scaled ones")
    heads = call.attribute("num_heads", 0)
    interleaved = bool(call.attribute("interleaved", 0))
    size = call.attribute("rotary_embedding_dim", 0)

    def compute(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        steps = x.shape[2] if x.dim() == 4 else x.shape[1]
        if positions.numel() == 1:
            first = positions.reshape(1, 1)
            positions = (first + torch.arange(steps, device=x.device)).expand(x.shape[0], steps)
        own = heads or (x.shape[1] if x.dim() == 4 else x.shape[2] // (2 * cos.shape[-1]))
        turned: Tensor = rotary(own, size, interleaved)(x, cos, sin, positions)
        return turned

    return compute
