"""The registry of ops: the only names that a file may call, each with the function that it means here.

A file names an op; the function is looked up in this table, never by a dotted path, an import or an attribute walk.
What is not in the table cannot be saved (FXQ611 says so at once) and cannot be loaded.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F

from fxquant import aliasing, attention, float_formats, groups, qdq, recurrent


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_TORCH = _words("""
    abs absolute acos acosh adaptive_avg_pool1d add addbmm addcdiv addcmul addmm addmv addr all allclose amax amin
    aminmax any arange arccos arcsin arctan arctan2 argmax argmin argsort argwhere asin asinh atan atan2 atanh
    avg_pool1d baddbmm batch_norm bilinear bincount bitwise_and bitwise_not bitwise_or bitwise_xor bmm
    broadcast_tensors broadcast_to bucketize cartesian_prod cat cdist ceil celu channel_shuffle chunk clamp clamp_max
    clamp_min clip clone column_stack complex concat concatenate conj conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d copysign cos cosh cosine_similarity count_nonzero cross cummax cummin cumprod
    cumsum deg2rad detach diag diag_embed diagonal diff digamma div divide dot dropout dsplit dstack einsum embedding
    embedding_bag empty_like eq equal erf erfc erfinv exp exp2 expm1 eye fix flatten flip fliplr flipud floor
    floor_divide fmax fmin fmod frac full full_like gather ge greater greater_equal group_norm gt hardshrink heaviside
    hsplit hstack hypot imag index_add index_fill index_select inner instance_norm inverse is_complex
    is_floating_point is_tensor isclose isfinite isin isinf isnan kron kthvalue layer_norm le lerp less less_equal
    lgamma linspace log log10 log1p log2 log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not
    logical_or logical_xor logit logsumexp lt masked_fill masked_scatter masked_select matmul matrix_power max
    max_pool1d maximum mean median meshgrid min minimum mm moveaxis movedim mul multiply mv nan_to_num nanmean nansum
    narrow ne neg negative norm not_equal numel ones ones_like outer pairwise_distance permute pixel_shuffle
    pixel_unshuffle polar positive pow prelu prod quantile rad2deg ravel real reciprocal relu remainder renorm
    repeat_interleave reshape rms_norm roll rot90 round rsqrt rsub scalar_tensor scatter scatter_add scatter_reduce
    searchsorted select selu sigmoid sign sin sinc sinh softmax sort split sqrt square squeeze stack std std_mean sub
    subtract sum swapaxes swapdims t take take_along_dim tan tanh tensor_split tensordot threshold tile topk trace
    transpose tril triu true_divide trunc unbind unflatten unsqueeze var var_mean view_as_complex view_as_real vsplit
    vstack where xlogy zeros zeros_like
""")

_FUNCTIONAL = _words("""
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d affine_grid
    avg_pool2d avg_pool3d batch_norm bilinear celu cosine_similarity dropout dropout1d dropout2d dropout3d elu
    embedding embedding_bag fold gelu glu grid_sample group_norm hardshrink hardsigmoid hardswish hardtanh
    instance_norm interpolate layer_norm leaky_relu linear local_response_norm log_softmax logsigmoid lp_pool1d
    lp_pool2d max_pool1d max_pool2d max_pool3d max_unpool1d max_unpool2d max_unpool3d mish normalize one_hot pad
    pairwise_distance pixel_shuffle pixel_unshuffle prelu relu relu6 rms_norm scaled_dot_product_attention selu
    sigmoid silu softmax softmin softplus softshrink softsign tanh tanhshrink threshold unfold upsample
""")

_OPERATOR = _words("""
    abs add and_ contains eq floordiv ge getitem gt index inv invert is_ is_not le lt matmul mod mul ne neg not_ or_
    pos pow sub truediv xor
""")

_MATH = _words("ceil cos exp floor log prod sin sqrt")
_BUILTINS = _words("abs bool float int len max min pow round slice sum tuple list")

_OURS: dict[str, Callable[..., Any]] = {
    **{f"fxq.{function.__name__}": function for function in (*qdq.QUANTIZE, *qdq.DEQUANTIZE, qdq.choose_qparams)},
    **{f"fxq.{function.__name__}": function for function in (groups.dequantize_groups, *float_formats.OPS)},
    **{
        f"fxq.{function.__name__}": function
        for function in (aliasing.rewritten, aliasing.with_item, aliasing.applied, aliasing.store)
    },
    "fxq.merged_mask": attention.merged_mask,
    **{
        f"fxq.{function.__name__}": function
        for function in (
            recurrent.lstm,
            recurrent.gru,
            recurrent.lstm_cell,
            recurrent.gru_cell,
            recurrent.rnn_tanh_cell,
            recurrent.rnn_relu_cell,
        )
    },
}

# Methods of tensors: pure ones only. Nothing here writes, reads raw memory, runs a callback or leaves torch.
METHODS = frozenset(
    _words(
        """
    abs acos acosh add addbmm addcdiv addcmul addmm all amax amin any argmax argmin argsort asin asinh atan atan2
    atanh baddbmm bfloat16 bitwise_and bitwise_not bitwise_or bitwise_xor bmm bool broadcast_to ceil chunk clamp
    clamp_max clamp_min clip clone contiguous copysign cos cosh count_nonzero cpu cummax cummin cumprod cumsum deg2rad
    detach diag diag_embed diagonal diff dim div divide dot double eq equal erf erfc erfinv exp exp2 expand expand_as
    expm1 flatten flip fliplr flipud float floor floor_divide fmax fmin fmod frac gather ge greater greater_equal gt
    half hardshrink index_add index_fill index_select inner int inverse is_complex is_contiguous is_floating_point
    isclose isfinite isinf isnan item kthvalue le lerp less less_equal lgamma log log10 log1p log2 log_softmax
    logaddexp logcumsumexp logical_and logical_not logical_or logical_xor logit logsumexp long lt masked_fill
    masked_scatter masked_select matmul matrix_power max maximum mean median min minimum mm moveaxis movedim mul
    multiply mv nan_to_num nanmean nansum narrow ndimension ne neg negative nelement new_full new_ones new_tensor
    new_zeros nonzero norm not_equal numel outer permute positive pow prelu prod quantile rad2deg ravel reciprocal relu
    remainder renorm repeat repeat_interleave reshape reshape_as roll rot90 round rsqrt scatter scatter_add
    scatter_reduce select short sigmoid sign sin sinc sinh size softmax sort split split_with_sizes sqrt square
    squeeze std stride sub subtract sum swapaxes swapdims t take take_along_dim tan tanh tensor_split tile to topk
    trace transpose tril triu true_divide trunc type type_as unbind unflatten unfold unsafe_chunk unsqueeze var view
    view_as where xlogy
    """
    )
)

# Attributes that a call of getattr may ask for, and in-place methods that `fxq.applied` may run on its own copy.
ATTRIBUTES = frozenset(
    _words("H T dtype device imag is_cuda itemsize layout mH mT nbytes ndim real requires_grad shape")
)
APPLIED = frozenset(
    _words(
        "copy_ fill_ index_add_ index_copy_ index_fill_ index_put_ masked_fill_ masked_scatter_ put_ scatter_ "
        "scatter_add_ scatter_reduce_ zero_ fill_diagonal_ renorm_ clamp_ tril_ triu_ index_reduce_"
    )
)


@cache
def functions() -> Mapping[str, Callable[..., Any]]:
    """Name in a file → the function, for every op there is."""
    found: dict[str, Callable[..., Any]] = {"getattr": builtins.getattr}
    for prefix, home, names in (
        ("", torch, _TORCH),
        ("nn.", F, _FUNCTIONAL),
        ("py.", operator, _OPERATOR),
        ("math.", math, _MATH),
        ("py.builtin_", builtins, _BUILTINS),
    ):
        found |= {prefix + name: getattr(home, name) for name in names if hasattr(home, name)}
    return MappingProxyType(found | _OURS)


@cache
def _names() -> Mapping[int, str]:
    found: dict[int, str] = {}
    for name, function in functions().items():
        found.setdefault(id(function), name)  # one function under two names (torch.conv2d, F.conv2d) has the first
    return found


def name_of(function: object) -> str | None:
    """The name of a function in files; None where it has none."""
    name = _names().get(id(function))
    return name if name is not None and functions()[name] is function else None
