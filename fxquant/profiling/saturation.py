"""Saturation: x86 kernels without VNNI add u8 × s8 products in pairs, in int16, which stops at 32,767.

    |a1 w1 + a2 w2| <= a_max (the two largest weights of one sign in a row)

Which products meet in a pair is the kernel's affair (it blocks and interleaves), so the bound takes the worst pair of
each output channel. With 7-bit activations 127 · (128 + 128) = 32,512: nothing saturates, whatever the weights are.
"""

from __future__ import annotations

from torch import Tensor

INT16 = 32_767
FULL, REDUCED = 255, 127  # the largest activation code with 8 and with 7 bits


def pair_sum(codes: Tensor, axis: int, largest: int = FULL) -> int:
    """The largest |sum| of two products in one output channel. `codes`: signed weights, `axis`: of the outputs."""
    if not codes.numel():
        return 0
    rows = codes.movedim(axis, 0).flatten(1).double()
    count = min(2, rows.shape[1])
    ups, downs = (side.clamp(min=0).topk(count, dim=1).values.sum(1).amax() for side in (rows, -rows))
    return int(largest * max(float(ups), float(downs)))


def needs_seven_bits(bound: int) -> bool:
    """Can full 8-bit activations saturate an int16 sum with these weights, on a CPU without VNNI?"""
    return bound > INT16
