"""What each layer of a compiled model costs in precision and time: SQNR against the float model, ranges, seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.errors import UnmeasurableError
from fxquant.numerics import sqnr_db
from fxquant.program import Program, Stage
from fxquant.sites import Reference, as_codes, computed_sites, replaceable, run_once

if TYPE_CHECKING:
    from fxquant.model import CompiledModel

BINS = 64
_CLAMPS: frozenset[Any] = frozenset(
    {nn.ReLU, nn.ReLU6, nn.Hardtanh, F.relu, F.relu6, F.hardtanh, torch.relu, torch.clamp, "clamp", "relu"}
)
MOST_BYTES = 2**28  # of float activations that are kept to compare with


@dataclass(frozen=True, slots=True)
class LayerMeasure:
    """One call site, over the rows that were measured. Where a kernel computes several sites, the last one has it.

    A value on codes that only a clamp reads is compared as the clamp lets it through, and has no range of its own.
    """

    site: str
    module: str
    op: str
    sqnr_db: float  # with the errors of all layers before it
    own_sqnr_db: float  # fed the float model's own inputs: what this layer alone adds
    low: float  # smallest and largest float value
    high: float
    histogram: tuple[int, ...]  # of the float values, BINS equal bins from low to high
    quant_low: float | None  # the range that its codes can hold; None where the result is float, or clamped next
    quant_high: float | None
    clipped: float  # share of the float values outside of that range, 0 to 1
    seconds: float | None = None  # of its kernel, where it was timed


@dataclass(frozen=True, slots=True)
class Measurements:
    """Of one compiled model against its float model, on `rows` rows of input."""

    rows: int
    output_sqnr_db: float
    layers: tuple[LayerMeasure, ...]

    def by_site(self, what: str) -> dict[str, float]:
        """One number ('sqnr_db', 'own_sqnr_db', 'clipped', 'seconds') for each site that has it."""
        values = {layer.site: getattr(layer, what) for layer in self.layers}
        return {site: value for site, value in values.items() if value is not None}


def measure(
    compiled: CompiledModel,
    *,
    model: nn.Module | None = None,
    inputs: tuple[Any, ...] | Mapping[str, Any] | Tensor | None = None,
    rows: int = 4,
    is_timed: bool = True,
) -> Measurements:
    """Run the float model and the compiled one on the same rows and compare them, layer by layer.

    Args:
        compiled: CONVERTED or LOWERED.
        model: the float model, where the one that was compiled is gone.
        inputs: one call's arguments: a tuple, a dict of keywords, or `(args, kwargs)`; None: the first calibration
            rows. Those flatter the result a little.
        rows: how many of them at most; fewer where their activations would need more than 256 MiB.
        is_timed: time each kernel too (three runs, the best of them).

    Raises:
        UnmeasurableError: FXQ313 when the float model is gone or changed, when no inputs are known, or while the
            model is still calibrating.
    """
    if compiled.stage < Stage.CONVERTED:
        raise UnmeasurableError("FXQ313", f"the model is {compiled.stage.name}", hint="call convert() first")
    floating = compiled.trace_float(model)
    leaves = _few(_leaves(compiled, inputs), min(rows, _affordable(floating)))
    wanted = computed_sites(compiled.graph_module)
    reference = Reference(floating.graph_module, set(wanted.values()))
    expected = run_once(reference, leaves)
    floats = reference.floats
    accumulated, own = (_Compared(compiled.graph_module, wanted, floats, forced) for forced in (False, True))
    actual = run_once(accumulated, leaves)
    run_once(own, leaves)
    seconds = _seconds(compiled.graph_module, leaves) if is_timed else {}
    nodes = {site: node for node, site in wanted.items()}
    layers = tuple(
        LayerMeasure(
            site=row.site,
            module=row.module,
            op=row.op,
            sqnr_db=accumulated.sqnr[row.site],
            own_sqnr_db=own.sqnr[row.site],
            **_distribution(floats[row.site], accumulated.ranges.get(row.site)),
            seconds=seconds.get(nodes[row.site]),
        )
        for row in compiled.ledger.layers
        if row.site in accumulated.sqnr
    )
    return Measurements(_rows(leaves), _together(expected, actual), layers)


def _leaves(compiled: CompiledModel, inputs: Any) -> tuple[Tensor, ...]:
    known = compiled.program.example_leaves
    if inputs is None and known is None:
        raise UnmeasurableError("FXQ313", "no example of the inputs is known", hint="hand one in as inputs=")
    match inputs:
        case None:
            return known or ()
        case Tensor():
            return compiled.program.signature.leaves((inputs,), {})
        case Mapping():
            return compiled.program.signature.leaves((), inputs)
        case (tuple() as args, Mapping() as kwargs):
            return compiled.program.signature.leaves(args, kwargs)
        case _:
            return compiled.program.signature.leaves(tuple(inputs), {})


def _few(leaves: tuple[Tensor, ...], rows: int) -> tuple[Tensor, ...]:
    """The first rows, where all inputs have as many."""
    sizes = {leaf.shape[0] if leaf.dim() else None for leaf in leaves}
    return tuple(leaf[:rows] for leaf in leaves) if len(sizes) == 1 and None not in sizes else leaves


def _rows(leaves: tuple[Tensor, ...]) -> int:
    return leaves[0].shape[0] if leaves and leaves[0].dim() else 1


def _affordable(program: Program) -> int:
    """Rows whose float activations fit into MOST_BYTES, from the shapes that capture noted."""
    from fxquant.graphs.snapping import snapshot

    example = program.example_leaves or ()
    sizes = [value.shape for node in snapshot(program) for value in node.values]
    per_row = 4 * sum(torch.Size(size).numel() for size in sizes) // max(1, _rows(example))
    return max(1, MOST_BYTES // max(1, per_row))


class _Compared(fx.Interpreter):
    """Compares the value of each site with the float one; `is_forced`: and goes on with the float one."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        wanted: Mapping[fx.Node, str],
        reference: Mapping[str, Tensor],
        is_forced: bool,
    ) -> None:
        super().__init__(graph_module)
        self.wanted, self.reference = wanted, reference
        self.forced = replaceable(graph_module) if is_forced else frozenset()
        self.sqnr: dict[str, float] = {}
        self.ranges: dict[str, tuple[float, float]] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        site = self.wanted.get(node, "")
        expected = self.reference.get(site)
        if not isinstance(value, Tensor) or expected is None or value.shape != expected.shape:
            return value
        actual = value.dequantize() if value.is_quantized else value
        clamp = self._clamp_after(node) if value.is_quantized else None
        if clamp is not None:  # the codes have the range of what it lets through: the rest is no error of theirs
            self.sqnr[site] = sqnr_db(*(self._clamped(clamp, tensor) for tensor in (expected, actual)))
        else:
            self.sqnr[site] = sqnr_db(expected, actual)
            if value.is_quantized:
                self.ranges[site] = _range_of(value)
        return as_codes(expected, value) if node in self.forced else value

    def _clamp_after(self, node: fx.Node) -> fx.Node | None:
        """The clamp that alone reads this node."""
        reader = next(iter(node.users), None)
        if reader is None or len(node.users) > 1 or reader.all_input_nodes != [node]:
            return None
        kind = type(self.fetch_attr(str(reader.target))) if reader.op == "call_module" else reader.target
        return reader if kind in _CLAMPS else None

    def _clamped(self, clamp: fx.Node, value: Tensor) -> Tensor:
        args, kwargs = fx.node.map_arg((clamp.args, clamp.kwargs), lambda _: value.clone())
        found: Tensor = getattr(self, clamp.op)(clamp.target, args, kwargs)
        return found


def _range_of(value: Tensor) -> tuple[float, float]:
    limits = torch.iinfo(value.int_repr().dtype)
    scale, zero_point = value.q_scale(), value.q_zero_point()
    return (limits.min - zero_point) * scale, (limits.max - zero_point) * scale


def _distribution(values: Tensor, limits: tuple[float, float] | None) -> dict[str, Any]:
    finite = values[values.isfinite()].float()
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    counts = torch.histc(finite, BINS, low, high) if finite.numel() else torch.zeros(BINS)
    found: dict[str, Any] = {"low": low, "high": high, "histogram": tuple(int(count) for count in counts)}
    if limits is None:
        return found | {"quant_low": None, "quant_high": None, "clipped": 0.0}
    half = (limits[1] - limits[0]) / 510
    outside = ((finite < limits[0] - half) | (finite > limits[1] + half)).sum()
    return found | {"quant_low": limits[0], "quant_high": limits[1], "clipped": float(outside) / max(1, finite.numel())}


def _together(expected: tuple[Any, ...], actual: tuple[Any, ...]) -> float:
    """SQNR of all float outputs as one."""
    pairs = [(left, right) for left, right in zip(expected, actual, strict=True) if _is_comparable(left, right)]
    if not pairs:
        return float("nan")
    left, right = (torch.cat([tensor.flatten().double() for tensor in side]) for side in zip(*pairs, strict=True))
    return sqnr_db(left, right)


def _is_comparable(left: Any, right: Any) -> bool:
    return isinstance(left, Tensor) and left.is_floating_point() and left.shape == right.shape


class _Timed(fx.Interpreter):
    """The seconds of each node."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.seconds: dict[fx.Node, float] = {}

    def run_node(self, node: fx.Node) -> Any:
        started = time.perf_counter()
        value = super().run_node(node)
        taken = time.perf_counter() - started
        self.seconds[node] = min(taken, self.seconds.get(node, taken))
        return value


def _seconds(graph_module: fx.GraphModule, leaves: tuple[Tensor, ...]) -> dict[fx.Node, float]:
    timed = _Timed(graph_module)
    for _ in range(3):
        run_once(timed, leaves)
    return timed.seconds
