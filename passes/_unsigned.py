"""Signed codes as unsigned ones: the same values on the grid that x86 kernels take.

    quantize(x, s, z, −128, 127, int8)   ⇒   quantize(x, s, z + 128, 0, 255, uint8)
    (codes − z) · s                       =   ((codes + 128) − (z + 128)) · s

A graph that was made canonical for an engine outside torch has signed activations where it wants them. Torch's x86
kernels read such codes as unsigned, and compute something else without a word.
"""

from __future__ import annotations

import torch
from torch import fx

from fxquant.passes._canonical import is_activation_dequantize, is_activation_quantize

_SIGNED_TOO = frozenset({"qnnpack"})  # engines whose kernels take both
_SHIFT = 128


def shift(graph: fx.Graph, engine: str) -> None:
    """Rewrite each signed quantize of full range whose codes only dequantizes read."""
    if engine in _SIGNED_TOO:
        return
    for node in graph.nodes:
        if not is_activation_quantize(node) or node.args[3:] != (-_SHIFT, _SHIFT - 1, torch.int8):
            continue
        if not all(map(is_activation_dequantize, node.users)):
            continue
        x, scale, zero_point, *_ = node.args
        node.args = (x, scale, zero_point + _SHIFT, 0, 2 * _SHIFT - 1, torch.uint8)
        for user in list(node.users):
            user.args = (node, scale, zero_point + _SHIFT)
