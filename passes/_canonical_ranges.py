"""Range folding: an activation that only clamps is what the clamp of the quantize after it already does.

    quantize(x; s, z)       = clamp(round(x/s) + z, qmin, qmax)         clamps to (qmin-z)·s and (qmax-z)·s
    quantize(hardtanh(x; a, b); s, z)  →  quantize(x; s', z')           where the ends of s', z' are a and b

The new ends are those of everything that clamped before: the activation's [a, b], the grid that its input was rounded
to, and the grid of its result. They lie within the old grid, so s' ≤ s and no value has a larger error; a ReLU6 after a
signed grid gets the half of the codes that the negative values had, and the other rounding is gone.
z' = qmin - round(a'/s') puts the lower end on the grid to within half a step, which is what rounding costs anyway;
with a' = 0 (ReLU, ReLU6) it is exact.

A narrower range spends all 8 bits. Kernels whose 16-bit sums of u8 × s8 products saturate were given 7 bits on purpose
(a scale twice as large): on those nothing is folded that would take them back.

A quantize remembers what was folded into it (`folded`): who reads what it rounds puts the activation back
(`unrounded`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant import qdq
from fxquant.artifact.formats import SMALLEST
from fxquant.clamping import clamped, ends_of
from fxquant.grids import Grid, grid_of
from fxquant.keep_float import is_kept_float
from fxquant.ledger import Ledger
from fxquant.origin import carry, site_of
from fxquant.passes._canonical import is_activation_dequantize, is_activation_quantize
from fxquant.passes._moving import keeps_range
from fxquant.passes._packing import PACKED
from fxquant.targets import has_saturation_risk, isa

_CLAMPS = (torch.clamp, torch.clip, "clamp", "clip")
_GROUPS_OF_ONEDNN = 100


def fold(graph: fx.Graph, quantize: fx.Node, engine: str, ledger: Ledger) -> bool:
    """Fold the activation before this quantize into its range, where there is one. Was there?"""
    activation = quantize.args[0]
    if not isinstance(activation, fx.Node) or set(activation.users) != {quantize}:
        return False
    ends = clamps_to(activation)
    if ends is None:
        return False
    rounded = _rounded_for_it_alone(activation)
    source = activation.args[0] if rounded is None else rounded.args[0]
    own, before = grid_of(quantize), grid_of(rounded)
    assert own is not None
    limits = (ends, own.ends, *(() if before is None else (before.ends,)))
    low, high = max(low for low, _ in limits), min(high for _, high in limits)
    grid = within(own, low, high) if low < high else None
    if grid is None or is_activation_dequantize(source):
        return False
    after = _of_the_same_grid(quantize)
    if after is None or (grid != own and not _has_all_bits(engine, after)):
        return False
    for node in after:
        _set_grid(node, grid)
    quantize.update_arg(0, source)
    quantize.meta[qdq.FOLDED] = ends
    _let_go(graph, quantize, activation, ledger)
    return True


def within(grid: Grid, low: float, high: float) -> Grid | None:
    """The grid of the same codes whose ends are (low, high), within this one's; None for too narrow a range."""
    if all(map(_is_near, (low, high), grid.ends, (grid.scale, grid.scale))):
        return grid
    scale = (high - low) / (grid.high - grid.low)
    if not math.isfinite(scale) or scale < SMALLEST or low > 0.0 or high < 0.0:
        return None  # zero has to be on the grid: padding is zero
    return grid._replace(scale=scale, zero_point=grid.low - round(low / scale))


def _is_near(end: float, own: float, scale: float) -> bool:
    return abs(end - own) <= 0.51 * scale  # rounding moves a value as far; whole numbers are half a step off


def clamps_to(node: fx.Node) -> tuple[float, float] | None:
    """The ends that this activation clamps to, where clamping is all that it does and needs an op of its own.

    A plain ReLU stays: every engine computes it within the layer before it.
    """
    found = _bounds(node)
    if found is None or not all(isinstance(end, (int, float)) for end in found):
        return None
    low, high = map(float, found)
    return (low, high) if low <= 0.0 <= high and not is_kept_float(node) else None


def folded(quantize: fx.Node) -> tuple[float, float] | None:
    """The ends of an activation that this quantize computes too."""
    found: tuple[float, float] | None = quantize.meta.get(qdq.FOLDED)
    return found


def unrounded(quantize: fx.Node) -> fx.Node:
    """The float value that a quantize rounds, with the activation that its range stands for put back."""
    value: Any = quantize.args[0]
    ends = folded(quantize)
    if ends is None:
        return value  # type: ignore[no-any-return]
    with quantize.graph.inserting_before(quantize):
        return carry(clamped(value, ends), *quantize.users)


def _bounds(node: fx.Node) -> tuple[Any, Any] | None:
    if node.op != "call_module" and node.target in _CLAMPS:
        given = dict(zip(("min", "max"), node.args[1:3], strict=False)) | dict(node.kwargs)
        low, high = given.get("min"), given.get("max")
        return -math.inf if low is None else low, math.inf if high is None else high
    return ends_of(node)


def _rounded_for_it_alone(activation: fx.Node) -> fx.Node | None:
    """The quantize of the activation's input, where nothing else reads what it rounds."""
    value = activation.args[0]
    if not is_activation_dequantize(value) or set(value.users) != {activation}:  # type: ignore[union-attr]
        return None
    quantize = value.args[0]  # type: ignore[union-attr]
    return quantize if len(quantize.users) == 1 else None  # type: ignore[union-attr,return-value]


def _of_the_same_grid(quantize: fx.Node) -> list[fx.Node] | None:
    """This quantize, and those that repeat its grid after ops that stay within it; None where one cannot follow.

    An engine runs such an op on codes only while both sides have one grid. A layer with weights takes any grid for its
    result: that it has the same one (two ReLU6 that are both used up to 6) binds nothing.
    """
    found = [quantize]
    for reader in found:  # it grows as they are found
        values = [user for user in reader.users if is_activation_dequantize(user)]
        if len(values) != len(reader.users):
            return None
        for op in [user for value in values for user in value.users if user.target not in PACKED]:
            again = [user for user in op.users if is_activation_quantize(user) and user.args[1:] == quantize.args[1:]]
            if again and not keeps_range(op):
                return None
            found += [node for node in again if node not in found]
    return found


def _has_all_bits(engine: str, quantizes: list[fx.Node]) -> bool:
    """Can the kernels that read these codes hold sums of all 8 bits?"""
    if engine == "fbgemm" or has_saturation_risk(engine, isa()):
        return False
    values = (value for quantize in quantizes for value in quantize.users)
    return engine != "x86" or not any(_is_depthwise_in_fbgemm(op) for value in values for op in value.users)


def _is_depthwise_in_fbgemm(node: fx.Node) -> bool:
    """x86 gives convolutions of more than 100 groups to FBGEMM, whose depthwise kernels sum in 16 bits."""
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    return node.target in (F.conv2d, F.conv3d) and isinstance(groups, int) and groups > _GROUPS_OF_ONEDNN


def _set_grid(quantize: fx.Node, grid: Grid) -> None:
    quantize.update_arg(1, grid.scale)
    quantize.update_arg(2, grid.zero_point)
    for user in list(quantize.users):
        user.update_arg(1, grid.scale)
        user.update_arg(2, grid.zero_point)


def _let_go(graph: fx.Graph, quantize: fx.Node, activation: fx.Node, ledger: Ledger) -> None:
    """The dequantize stands for the activation now; its row says so."""
    value: Any = activation.args[0]
    source: Any = quantize.args[0]
    why = f"folded into the range of '{site_of(source)}': the clamp of its codes is this activation"
    ledger.settle(activation, "int8", why)
    carry(next(iter(quantize.users)), activation)
    graph.erase_node(activation)
    for node in (value, value.args[0]) if is_activation_dequantize(value) else ():
        if not node.users:
            graph.erase_node(node)
