"""Matrix products."""

from __future__ import annotations

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch.nn import functional as F


@operator("MatMul")
def matmul(call: Call) -> Compute:
    """As numpy's matmul; integers exactly."""
    return lambda a, b: torch.matmul(a, b)


@operator("Gemm")
def gemm(call: Call) -> Compute:
    """alpha · A'B' + beta · C."""
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    left, right = bool(call.attribute("transA", 0)), bool(call.attribute("transB", 0))

    def general(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        a, b = a.t() if left else a, b.t() if right else b
        if c is not None and a.is_floating_point():
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)
        product = torch.matmul(a, b)
        product = product if alpha == 1.0 else (product * alpha).to(a.dtype)
        if c is None:
            return product
        return product + (c if beta == 1.0 else (c * beta).to(a.dtype))

    if right and not left and alpha == 1.0 and beta == 1.0 and call.opset >= 7:

        def linear(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
            if a.is_floating_point() and (c is None or (c.dim() == 1 and c.shape[0] == b.shape[0])):
                return F.linear(a, b, c)
            return general(a, b, c)

        return linear

    return general


@operator("Einsum")
def einsum(call: Call) -> Compute:
    """Sums of products by an equation."""
    equation = call.attribute("equation")
    return lambda *tensors: torch.einsum(equation, *tensors)


@operator("Det")
def det(call: Call) -> Compute:
    """Determinants of the last two axes."""
    return lambda x: torch.linalg.det(x)
