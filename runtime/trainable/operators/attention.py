"""Attention over queries, keys and values, and what goes with it."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from mopt.runtime.trainable.element_types import torch_type
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch import Tensor
from torch.nn import functional


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[N, T, H·D] → [N, H, T, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[N, H, T, D] → [N, T, H·D]."""
    return x.transpose(1, 2).flatten(2)


@operator("Attention")
def prepare_attention(call: Call) -> Compute:
    """Scaled dot-product attention with caches, groups of queries, soft caps, causal and windowed masks.

    torch's fused kernel computes it where nobody asks for the scores and no cap is set.
    """
    q_heads, kv_heads = call.attribute("q_num_heads", 0), call.attribute("kv_num_heads", 0)
    causal, cap = bool(call.attribute("is_causal", 0)), call.attribute("softcap", 0.0)
    left, right = call.attribute("left_window_size", -1), call.attribute("right_window_size", -1)
    declared, precision = call.attribute("scale"), call.attribute("softmax_precision")
    shown, with_scores = call.attribute("qk_matmul_output_mode", 0), call.outputs > 3

    def compute(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        past_k: Tensor | None = None,
        past_v: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        packed = q.dim() == 3
        if packed:
            q, k, v = split_heads(q, q_heads), split_heads(k, kv_heads), split_heads(v, kv_heads)
        if past_k is not None and past_v is not None:
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        present = (k, v)
        scale = declared if declared is not None else 1 / sqrt(q.shape[-1])
        offset: Any = 0 if past_k is None else past_k.shape[2]
        if past_k is None and valid is not None:
            offset = (valid.reshape(-1, 1, 1, 1) - q.shape[2]).to(q.device)
        bias = _bias(q, k, mask, offset, causal, (left, right), valid)
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = None
        if not with_scores and not cap and precision is None:
            y = _fused(q, k, v, bias, scale)
        else:
            root = sqrt(scale)
            scores = torch.matmul(q * root, (k * root).transpose(-1, -2))
            if cap:
                scores = cap * torch.tanh(scores / cap)
            biased = scores if bias is None else scores + bias
            weights = torch.softmax(biased.to(torch_type(precision)) if precision else biased, -1).to(q.dtype)
            weights = _without_empty_rows(weights, bias)
            scores = (scores, scores, biased, weights)[shown]
            y = torch.matmul(weights, v)
        return join_heads(y) if packed else y, *present, scores

    return compute


def _bias(
    q: Tensor, k: Tensor, mask: Tensor | None, offset: Any, causal: bool, window: tuple[int, int], valid: Tensor | None
) -> Tensor | None:
    """What is added to the scores: 0 where a query may look, -inf where not, and a float mask itself."""
    allowed, total = None, k.shape[2]
    if causal or max(window) >= 0:
        ahead = torch.arange(total, device=q.device) - (torch.arange(q.shape[2], device=q.device).unsqueeze(1) + offset)
        least = -window[0] if window[0] >= 0 else None
        most = 0 if causal else None
        if window[1] >= 0:
            most = window[1] if most is None else min(most, window[1])
        allowed = torch.ones_like(ahead, dtype=torch.bool)
        if least is not None:
            allowed = allowed & (ahead >= least)
        if most is not None:
            allowed = allowed & (ahead <= most)
    if valid is not None:
        inside = torch.arange(total, device=q.device) < valid.to(q.device).reshape(-1, 1, 1, 1)
        allowed = inside if allowed is None else allowed & inside
    if mask is not None:
        missing = total - mask.shape[-1]
        if mask.dtype == torch.bool:
            mask = functional.pad(mask, [0, missing], value=False) if missing else mask
            allowed = mask if allowed is None else allowed & mask
            mask = None
        elif missing:
            mask = functional.pad(mask, [0, missing], value=-float("inf"))
    if allowed is None:
        return mask
    barred = torch.zeros((), dtype=q.dtype, device=q.device).masked_fill(~allowed, -float("inf"))
    return barred if mask is None else mask + barred


def _without_empty_rows(weights: Tensor, bias: Tensor | None) -> Tensor:
    """A query that may look nowhere gives zeros, not what a softmax over nothing gives."""
    if bias is None:
        return weights
    empty = torch.isneginf(bias.amax(-1, keepdim=True))
    return weights.masked_fill(empty, 0.0)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    if bias is None:
        return functional.scaled_dot_product_attention(q, k, v, scale=scale)
    bias = bias.to(q.dtype)
    while bias.dim() < 4:
        bias = bias.unsqueeze(0)
    empty = torch.isneginf(bias.amax(-1, keepdim=True))
    # A row without any key would make gradients of NaN: it looks everywhere, and its result is dropped.
    y = functional.scaled_dot_product_attention(q, k, v, bias.masked_fill(empty, 0.0), scale=scale)
    return y.masked_fill(empty, 0.0)


@operator("RotaryEmbedding")
def prepare_rotary_embedding(call: Call) -> Compute:
    """Rotary positions (Su et al., 2021), over all or the first elements of a head."""
    return rotary(
        call.attribute("num_heads", 0),
        call.attribute("rotary_embedding_dim", 0),
        bool(call.attribute("interleaved", 0)),
    )


def rotary(heads: int, rotated: int, interleaved: bool) -> Compute:
    """Return the rotation of [N, T, H·D] or [N, H, T, D] by tables of cosines and sines."""

    def compute(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
        apart = x.transpose(1, 2) if x.dim() == 4 else x.unflatten(-1, (heads, -1))
        size = rotated or apart.shape[-1]
        if positions is not None:
            cos, sin = cos[positions.long()], sin[positions.long()]
        cos, sin = cos[..., : size // 2].unsqueeze(-2), sin[..., : size // 2].unsqueeze(-2)
        turned, kept = apart[..., :size], apart[..., size:]
        first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
        real, imaginary = cos * first - sin * second, sin * first + cos * second
        turned = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
        result = torch.cat([turned, kept], -1) if kept.shape[-1] else turned
        return result.transpose(1, 2) if x.dim() == 4 else result.flatten(-2)

    return compute


@operator("LinearAttention")
def prepare_linear_attention(call: Call) -> Compute:
    """Attention as a recurrence over a state [N, H, Dk, Dv], with decay and the delta rule where asked for."""
    q_heads, kv_heads = call.attribute("q_num_heads"), call.attribute("kv_num_heads")
    declared, rule = call.attribute("scale", 0.0), call.attribute("update_rule", "gated_delta")

    def compute(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        past: Tensor | None = None,
        decay: Tensor | None = None,
        beta: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(q.dtype, torch.float32)
        queries = split_heads(q, q_heads).to(wide)
        keys, values = split_heads(k, kv_heads).to(wide), split_heads(v, kv_heads).to(wide)
        batch, _, steps, size = queries.shape
        state = keys.new_zeros(batch, kv_heads, size, values.shape[-1]) if past is None else past.to(wide)
        kept = None if decay is None else split_heads(decay, kv_heads).to(wide).exp().unsqueeze(-1)
        gain = None if beta is None else beta.transpose(1, 2).unsqueeze(-1).to(wide)
        outputs = []
        for step in range(steps):
            key, value = keys[:, :, step], values[:, :, step]
            if kept is not None and "gated" in rule:
                state = state * kept[:, :, step]
            if gain is not None and "delta" in rule:
                value = gain[:, :, step] * (value - torch.einsum("bhdm,bhd->bhm", state, key))
            state = state + key.unsqueeze(-1) * value.unsqueeze(-2)
            read = state.repeat_interleave(q_heads // kv_heads, 1) if q_heads != kv_heads else state
            outputs.append(torch.einsum("bhd,bhdm->bhm", queries[:, :, step], read))
        scale = declared or 1 / sqrt(size)
        y = join_heads(torch.stack(outputs, 2) * scale).to(q.dtype)
        return y, state.to(q.dtype if past is None else past.dtype)

    return compute
