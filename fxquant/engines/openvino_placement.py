"""Where OpenVINO wants its quantize → dequantize pairs: on what its int8 kernels read, and nowhere else.

    conv → q → dq → relu6 → q → dq → maxpool → q → dq → conv        ⇒        conv → q → dq → maxpool → conv
    conv → q → dq → add(·, skip) → relu → q → dq → conv             ⇒        the same, skip being the codes of a layer

Rules, from per-op profiles of OpenVINO 2026.4 on a CPU with VNNI and AMX; each pair that goes is one rounding less:

1. Layers with int8 weights read codes; other ops compute in the CPU's float type. Other adds, attention, softmax and
   norms on codes cost a quantize each, and win nothing: they wait for memory, or are fused into the layer before them.
2. A pair stands before reshapes, max pooling and concatenation, which then move bytes, but after transposes, which
   move bytes slowly.
3. A sum with a convolution's result reads codes on both sides: conv + quantize + sum + relu + quantize is one kernel.
   With a float summand the last quantize is a pass of its own over memory.
4. A mean over such a sum reads codes as well: the sum is a kernel that ends in quantize then, and without one a float
   result is brought into another order for the mean (8 and 13 µs).
5. Signed ranges are symmetric int8: kernels add a correction for a zero point. Zero stays exactly zero.
6. A clamp ends where its range ends: quantize is that clamp.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant import qdq
from fxquant.engines._openvino_grids import for_kernels, without_clamps
from fxquant.engines.moves import JOINS, joined, moved, moves_codes_well
from fxquant.engines.unrounding import put_back
from fxquant.graphmodule import copied, drop_unused_modules
from fxquant.grids import Grid, grid_of
from fxquant.origin import adopt

LAYERS = (
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_ADDS = (operator.add, operator.iadd, torch.add)
_MEANS, _MEAN_MODULES = (F.adaptive_avg_pool2d, torch.mean, "mean"), (nn.AdaptiveAvgPool2d,)
_RELUS, _RELU_MODULES = (F.relu, torch.relu, "relu"), (nn.ReLU,)


def placed(canonical: fx.GraphModule) -> fx.GraphModule:
    """A copy with its pairs where OpenVINO wants them; weights, dynamic ranges and the given graph stay as they are."""
    made = copied(canonical)
    placing = _Placing(made)
    placing.place_before_layers()
    placing.place_before_means()
    placing.place_before_sums()
    made.graph.eliminate_dead_code()
    drop_unused_modules(made)
    made.recompile()
    return made


class _Placing:
    """One graph without its pairs, the grid that each value had, and the pairs that were made anew."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module, self.graph = graph_module, graph_module.graph
        self._readers = [node for node in self.graph.nodes if _is_layer(node) and self._reads_codes(node.args[0])]
        self._grids: dict[fx.Node, Grid] = {}
        self._made: dict[tuple[fx.Node, Grid], fx.Node] = {}
        for quantize in [node for node in self.graph.nodes if grid_of(node) is not None]:
            self._take_away(quantize)

    def _reads_codes(self, value: Any) -> bool:
        while moved(value) is not None:
            value = moved(value)
        if value.target in JOINS:
            return all(self._reads_codes(part) for part in joined(value))
        return _is_value(value)

    def _take_away(self, quantize: Any) -> None:
        grid, dequantizes = grid_of(quantize), list(quantize.users)
        if grid is None or not all(map(_is_value, dequantizes)):
            return  # somebody reads its codes as integers
        source = put_back(self.graph, quantize)
        self._grids.setdefault(source, grid)
        for dequantize in dequantizes:
            dequantize.replace_all_uses_with(source)
            self.graph.erase_node(dequantize)
        self.graph.erase_node(quantize)

    def place_before_layers(self) -> None:
        """Rules 1 and 2."""
        for layer in self._readers:
            grid = self._grid_behind(layer.args[0])
            if grid is not None:
                layer.update_arg(0, self._on_codes(layer.args[0], grid))

    def place_before_means(self) -> None:
        """Rule 4."""
        for node in self.graph.nodes:
            if self._is_one_of(node, _MEANS, _MEAN_MODULES) and node.args:
                value = node.args[0]
                grid = self._grids.get(value)
                summed = value.args[0] if self._is_one_of(value, _RELUS, _RELU_MODULES) else value
                if grid is not None and _is_sum_with_convolution(summed):
                    node.update_arg(0, self._on_codes(value, grid))

    def _is_one_of(self, node: Any, targets: Collection[Any], modules: tuple[type[nn.Module], ...]) -> bool:
        if not isinstance(node, fx.Node) or node.op == "get_attr":
            return False
        if node.op == "call_module":
            return isinstance(self.graph_module.get_submodule(str(node.target)), modules)
        return node.target in targets

    def place_before_sums(self) -> None:
        """Rule 3: a sum with a convolution's result reads codes on both sides, where both have a grid."""
        for node in self.graph.nodes:
            if not _is_sum_with_convolution(node):
                continue
            for index, value in enumerate(node.args):
                grid = self._grid_behind(value) if isinstance(value, fx.Node) else None
                if grid is not None:
                    node.update_arg(index, self._on_codes(value, grid))

    def _grid_behind(self, value: Any) -> Grid | None:
        """The grid that a value had, or the one of what it was moved from."""
        while value not in self._grids:
            if value.target in JOINS and joined(value):
                value = joined(value)[0]
            elif moved(value) is not None:
                value = moved(value)
            else:
                return None
        return self._grids[value]

    def _on_codes(self, value: Any, grid: Grid) -> fx.Node:
        """The value on this grid: its pair stands before whatever only moves it."""
        if _is_value(value):
            return value  # type: ignore[no-any-return]
        source = moved(value) if moves_codes_well(value) else None
        if source is not None:
            value.update_arg(0, self._on_codes(source, self._grids.get(source, grid)))
        elif _is_join(value):
            value.update_arg(0, [self._on_codes(part, grid) for part in joined(value)])
        else:
            return self._pair(value, for_kernels(grid))
        return value  # type: ignore[no-any-return]

    def _pair(self, value: fx.Node, grid: Grid) -> fx.Node:
        key = value, grid
        if key not in self._made:
            source, grid, gone = without_clamps(value, grid)
            with self.graph.inserting_after(value):
                codes = adopt(self.graph.call_function(qdq.quantize_per_tensor, (source, *grid)), value)
            if gone is not None:
                codes.meta[qdq.FOLDED] = gone
            with self.graph.inserting_after(codes):
                made = self.graph.call_function(qdq.dequantize_per_tensor, (codes, grid.scale, grid.zero_point))
            self._made[key] = adopt(made, value)
        return self._made[key]


def _is_layer(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in LAYERS and bool(node.args)


def _is_sum_with_convolution(node: Any) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.target in _ADDS
        and len(node.args) == 2
        and any(map(_is_convolution, node.args))
    )


def _is_join(node: fx.Node) -> bool:
    parts = joined(node) if node.target in JOINS else ()
    return bool(parts) and all(isinstance(part, fx.Node) for part in parts)


def _is_convolution(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in _CONVOLUTIONS


def _is_value(node: Any) -> bool:
    """The dequantize of static codes."""
    return isinstance(node, fx.Node) and node.target is qdq.dequantize_per_tensor and grid_of(node.args[0]) is not None
