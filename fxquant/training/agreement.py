"""Does what was trained equal what runs? Each fake-quantized layer and its converted form, fed the same input.

The trained graph is run in eval on the canonical graph's own values: at each requantization both have the same input,
so a difference is that of this layer alone. Ties round either way: one step each is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import qdq
from fxquant.aliasing import restore_buffers, saved_buffers
from fxquant.errors import SemanticsError
from fxquant.ledger import Ledger
from fxquant.origin import origins, part_key, scope, site_of, where
from fxquant.structure import flatten
from fxquant.training.fake_quantizer import FakeQuantizer
from fxquant.training.layers import QATEmbedding, QATLayer
from fxquant.training.recurrent_layer import QATRecurrent

MOST_STEPS = 1.0
_TIE = 1e-3  # of a step: float32 noise on top of a whole one
_IN_FLOAT = "fxq_in_float"


def mark_in_float(node: fx.Node) -> None:
    """The module that this node calls is trained in float, and rounded at convert() only: nothing to compare."""
    node.meta[_IN_FLOAT] = True


def is_in_float(node: fx.Node) -> bool:
    """Is it trained in float?"""
    return _IN_FLOAT in node.meta


def _share_of_range(expected: Tensor) -> float:
    """A step where no requantization says what one is: 1/255 of the range."""
    return (float(expected.max() - expected.min()) / 255 if expected.numel() else 0.0) or 1.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """One layer: how far its fake-quantized and its converted result are apart, on the same input."""

    site: str
    module: str
    steps: float  # of the output's scale; where no requantization follows, of 1/255 of the output's range

    @property
    def is_met(self) -> bool:
        """Within one step; a number that is not a number is not."""
        return self.steps <= MOST_STEPS + _TIE


def compare(
    trained: fx.GraphModule, canonical: fx.GraphModule, leaves: tuple[Tensor, ...], ledger: Ledger
) -> tuple[Agreement, ...]:
    """A row for each requantization, and for each layer that none follows. Both graphs are in eval mode."""
    recorder, buffers = _Recorder(canonical), saved_buffers(canonical)
    with torch.no_grad():
        recorder.run(*(leaf.clone() for leaf in leaves))
        restore_buffers(canonical, buffers)
        runner = _Comparison(trained, _Counterparts(canonical), recorder.values)
        own = saved_buffers(trained)
        runner.run(*(leaf.clone() for leaf in leaves))
        restore_buffers(trained, own)
    return tuple(_row(node, steps, ledger) for node, steps in runner.steps.items())


def _row(node: fx.Node, steps: float, ledger: Ledger) -> Agreement:
    found = ledger.row_of(node)
    return Agreement(site_of(node), scope(node) if found is None else found.module, steps)


def refuse_disagreement(rows: Iterable[Agreement], trained: fx.GraphModule) -> None:
    """FXQ408 that names the layer which is furthest off."""
    worst = max((row for row in rows if not row.is_met), key=lambda row: row.steps, default=None)
    if worst is None:
        return
    node = next((node for node in trained.graph.nodes if site_of(node) == worst.site), None)
    raise SemanticsError(
        "FXQ408",
        f"'{worst.module or worst.site}' computes something else now than in training: {worst.steps:.3g} steps apart "
        "on the same input",
        hint="this is a fault of the conversion, not of your training: please report it, with the layer's options",
        node=worst.site,
        module=worst.module,
        where=None if node is None else where(node),
    )


class _Recorder(fx.Interpreter):
    """Keeps what each node of the canonical graph gives."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        self.values[node] = super().run_node(node)
        return self.values[node]


class _Counterparts:
    """Nodes of the canonical graph, found by the identity that passes carry."""

    def __init__(self, canonical: fx.GraphModule) -> None:
        self._by_origin: dict[str, list[fx.Node]] = {}
        self._first: dict[str, fx.Node] = {}
        self._inputs: dict[str, fx.Node] = {}
        for node in canonical.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                self._inputs.setdefault(f"{node.op} {node.target}", node)
            elif origins(node) and node.op != "output":
                self._by_origin.setdefault(part_key(node, origins(node)[-1]), []).append(node)
                self._first.setdefault(part_key(node, site_of(node)), node)

    def whole(self, node: fx.Node) -> fx.Node | None:
        """The node that computes what the call at `node` gives, before anything takes it apart."""
        return self._first.get(part_key(node, site_of(node)))

    def of(self, node: fx.Node) -> fx.Node | None:
        """The node that computes the same value: of those with one origin the last."""
        return next(iter(self._all(node)), None)

    def _all(self, node: fx.Node) -> list[fx.Node]:
        if node.op in ("placeholder", "get_attr"):
            found = self._inputs.get(f"{node.op} {node.target}")
            return [] if found is None else [found]
        return self._by_origin.get(part_key(node, origins(node)[-1]), [])[::-1] if origins(node) else []

    def requantized(self, node: fx.Node, scale: float, zero_point: int) -> fx.Node | None:
        """The dequantize that follows the counterpart of `node`, by these qparams."""
        for user in (user for source in self._all(node) for user in source.users):
            if user.target is qdq.quantize_per_tensor and user.args[1:3] == (scale, zero_point):
                return next((reader for reader in user.users if reader.target is qdq.dequantize_per_tensor), None)
        return None


class _Comparison(fx.Interpreter):
    """Runs the trained graph; where a layer ends, the canonical value goes on in the place of its own."""

    def __init__(self, trained: fx.GraphModule, counterparts: _Counterparts, values: Mapping[fx.Node, Any]) -> None:
        super().__init__(trained)
        self.counterparts, self.values = counterparts, values
        self.steps: dict[fx.Node, float] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        module = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, FakeQuantizer):
            return self._at_requantization(node, module, value)
        if isinstance(module, QATRecurrent) or is_in_float(node):
            return self._at_whole(node, value)
        if node.op != "call_module" or any(self._is_fake_quantizer(user) for user in node.users):
            return value
        counterpart = self.counterparts.of(node)
        expected = None if counterpart is None else self.values.get(counterpart)
        if not isinstance(expected, Tensor) or not isinstance(value, Tensor) or expected.shape != value.shape:
            return value
        if isinstance(module, (QATLayer, QATEmbedding)) and module.weight_fake_quant is not None:
            self._compare(node, value, expected, _share_of_range(expected))
        return expected

    def _at_whole(self, node: fx.Node, value: Any) -> Any:
        """A layer that gives several tensors, or that was not trained as it runs: the canonical ones go on."""
        counterpart = self.counterparts.whole(node)
        leaves, structure = flatten(value)
        expected = [] if counterpart is None else flatten(self.values[counterpart])[0]
        if [getattr(leaf, "shape", None) for leaf in leaves] != [getattr(leaf, "shape", None) for leaf in expected]:
            return value
        for leaf, wanted in zip(leaves, expected, strict=True):
            if not is_in_float(node):
                self._compare(node, leaf, wanted, _share_of_range(wanted))
        return structure.unflatten(expected)

    def _at_requantization(self, node: fx.Node, module: FakeQuantizer, value: Tensor) -> Tensor:
        scale, zero_point = (found.item() for found in module.calculate_qparams())
        source = node.all_input_nodes[0]
        counterpart = self.counterparts.requantized(source, scale, int(zero_point))
        if counterpart is None:
            return value
        expected: Tensor = self.values[counterpart]
        self._compare(source, value, expected, scale)
        return expected

    def _compare(self, node: fx.Node, value: Tensor, expected: Tensor, step: float) -> None:
        apart = float((value - expected).abs().max()) / step if value.numel() else 0.0
        self.steps[node] = apart if apart != apart else max(self.steps.get(node, 0.0), apart)

    def _is_fake_quantizer(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.fetch_attr(str(node.target)), FakeQuantizer)
