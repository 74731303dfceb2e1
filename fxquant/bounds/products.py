"""Sums of products: layers with weights, matmul, attention, embeddings.

|Σ w q - Σ w v| <= Σ |w| e                          for a weight that both sides have alike
|q r - v w| <= |v| e_w + |w| e_v + e_v e_w          for two values with errors
float32 sums of n products: n · 2^-24 · Σ |w| |v| on either side (Higham, "Accuracy and Stability", 2002, §3.1)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.bounds.bounded import Bounded, NoBound, apply, double, lifted, made, rule, summed_slack

Product = Callable[[Tensor, Tensor], Tensor]


def product(first: Any, second: Any, multiply: Product, terms: float, bias: Any = None) -> Bounded:
    """A bilinear op of two values; `terms` products are summed into each result. `bias` has the result's shape."""
    a, b = lifted(first), lifted(second)
    x, w = a.value.abs(), b.value.abs()
    value = multiply(a.value, b.value)
    error = multiply(a.error, w + b.error) + (multiply(x, b.error) if bool(b.error.any()) else 0.0)
    variance = multiply(a.variance, w.square() + b.variance) + (
        multiply(x.square(), b.variance) if bool(b.variance.any()) else 0.0
    )
    size = multiply(x, w) + error
    if bias is not None:
        shift = lifted(bias)
        value, error, variance = value + shift.value, error + shift.error, variance + shift.variance
        size = size + shift.value.abs()
    return made(value, error, variance, slack=summed_slack(terms), of=size)


@rule("linear")
def linear(input: Any, weight: Any, bias: Any = None) -> Bounded:
    """x @ w.T + b."""
    return product(input, weight, lambda x, w: F.linear(x, w), weight.shape[-1], bias)


def _convolution(name: str, is_transposed: bool) -> Callable[..., Bounded]:
    function = getattr(F, name)
    dims = int(name[-2])

    def convolve(input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Bounded:
        def multiply(x: Tensor, w: Tensor) -> Tensor:
            result: Tensor = function(x, w, None, *args, **kwargs)
            return result

        terms = weight.numel() / max(1, weight.shape[1 if is_transposed else 0])
        shift = None if bias is None else bias.view(-1, *[1] * dims)
        return product(input, weight, multiply, terms, shift)

    return convolve


for _dims in (1, 2, 3):
    rule(f"conv{_dims}d")(_convolution(f"conv{_dims}d", False))
    rule(f"conv_transpose{_dims}d")(_convolution(f"conv_transpose{_dims}d", True))


@rule("matmul", "bmm", "mm", "mv", "dot")
def matmul(first: Any, second: Any) -> Bounded:
    """Of two values."""
    return product(first, second, torch.matmul, first.shape[-1])


@rule("baddbmm", "addmm")
def addmm(input: Any, first: Any, second: Any, *, beta: float = 1.0, alpha: float = 1.0) -> Bounded:
    """beta · input + alpha · first @ second."""
    found = apply("mul", matmul(first, second), alpha)
    result: Bounded = apply("add", found, apply("mul", input, beta))
    return result


@rule("einsum")
def einsum(equation: str, *operands: Any) -> Bounded:
    """Of one or two operands."""
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    if len(given) != 2:
        raise NoBound(f"einsum of {len(given)} operands")
    terms = min(item.numel() for item in given)
    return product(given[0], given[1], lambda a, b: torch.einsum(equation, a, b), terms)


@rule("scaled_dot_product_attention")
def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Bounded:
    """softmax(q @ k.T · scale + mask) @ v."""
    if dropout_p or enable_gqa:
        raise NoBound("attention with dropout or grouped queries")
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = apply("mul", matmul(query, apply("transpose", key, -2, -1)), factor)
    length, width = scores.shape[-2:]
    if is_causal:
        attn_mask = torch.ones(length, width, dtype=torch.bool).tril()
    if isinstance(attn_mask, Tensor) and attn_mask.dtype is torch.bool:
        attn_mask = torch.zeros(attn_mask.shape, dtype=torch.float64).masked_fill(~attn_mask, -math.inf)
    if attn_mask is not None:
        scores = apply("add", scores, attn_mask)
    found: Bounded = matmul(apply("softmax", scores, -1), value)
    return found


@rule("embedding")
def embedding(input: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows of a table. Kernels make them of codes as c · s - z · s, each term no larger than twice the row."""
    if isinstance(input, Bounded):
        raise NoBound("its indices depend on the numbers")
    table = lifted(weight)
    size = table.value.abs().amax(-1, keepdim=True).expand_as(table.value)
    parts = (F.embedding(input, part) for part in (table.value, table.error, table.variance))
    return made(*parts, of=4 * F.embedding(input, size))


@rule("embedding_bag")
def embedding_bag(
    input: Any,
    weight: Any,
    offsets: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Bounded:
    """Sums of rows, with weights that may have errors."""
    if any(isinstance(given, Bounded) for given in (input, offsets, weight)) or mode != "sum" or max_norm is not None:
        raise NoBound("its indices or its table depend on the numbers")

    def summed(rows: Tensor, factors: Tensor | None) -> Tensor:
        options = (None, 2.0, False, "sum", False, factors, include_last_offset, padding_idx)
        return F.embedding_bag(input, rows.contiguous(), offsets, *options)

    table = double(weight)
    size = table.abs().amax(-1, keepdim=True).expand_as(table)
    slack = 4 * summed_slack(input.numel())
    if per_sample_weights is None:
        value = summed(table, None)
        return made(value, torch.zeros_like(value), torch.zeros_like(value), slack=slack, of=summed(size, None))
    factors = lifted(per_sample_weights)
    return made(
        summed(table, factors.value),
        summed(table.abs(), factors.error),
        summed(table.square(), factors.variance),
        slack=slack,
        of=summed(size, factors.value.abs() + factors.error),
    )
