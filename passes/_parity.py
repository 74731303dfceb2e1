"""Parity: each lowered op, fed the canonical graph's own input, gives the canonical result to within one code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import qdq
from fxquant.aliasing import restore_buffers, saved_buffers
from fxquant.calibration import run_on_few
from fxquant.errors import ExampleInputError
from fxquant.origin import site_of, where
from fxquant.passes._canonical import grid_of, is_activation_quantize
from fxquant.passes._native_graph import Lowered

MAX_STEPS = 1  # codes; ties round either way

SATURATION = (
    "without VNNI, sums of full-range activations saturate: use a mapping with reduce_range; "
    "else leave the layer out of the mapping, or choose another target"
)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A layer that the engine computes differently."""

    layers: tuple[fx.Node, ...]  # canonical: the layer, and the relu that its kernel computes too
    steps: float
    target: str

    def __str__(self) -> str:
        if self.steps == math.inf:
            return f"the kernel of {self.target} fails on it"
        return f"{self.target} computes it {self.steps:.4g} codes off the canonical graph"

    @property
    def hint(self) -> str:
        """The way out: another engine may have the kernel, or hold the sums."""
        return "try another target" if self.steps == math.inf else SATURATION


class _Recorder(fx.Interpreter):
    """Runs the canonical graph and keeps what lowered nodes stand for."""

    def __init__(self, graph_module: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(graph_module)
        self.wanted, self.found = wanted, dict[fx.Node, Any]()
        self.running: fx.Node | None = None

    def run_node(self, node: fx.Node) -> Any:
        self.running = node
        value = super().run_node(node)
        if node in self.wanted:
            self.found[node] = value
        return value


class _Checker(fx.Interpreter):
    """Runs the lowered graph, comparing each node and then handing on the canonical value."""

    def __init__(self, lowered: Lowered, reference: dict[fx.Node, Any]) -> None:
        super().__init__(lowered.graph_module)
        self.counterpart, self.reference = lowered.counterpart, reference
        self.steps: dict[fx.Node, float] = {}

    def run_node(self, node: fx.Node) -> Any:
        canonical = self.counterpart.get(node)
        try:
            value = super().run_node(node)
        except (RuntimeError, NotImplementedError, TypeError):
            if canonical is None:
                raise
            self.steps[canonical] = math.inf
            return _coded(canonical, self.reference[canonical])
        if canonical is None or not isinstance(value, (Tensor, tuple)):
            return value
        expected = self.reference[canonical]
        if isinstance(value, tuple):
            self.steps[canonical] = max(map(_steps, value, expected))
            return expected
        if value.is_quantized and expected.is_floating_point():
            expected = _on_grid(canonical, expected)
        self.steps[canonical] = _steps(value, expected)
        return _like(value, expected) if value.is_quantized else expected


def _like(value: Tensor, codes: Tensor) -> Tensor:
    """`codes` as the engine holds its own: same scale, zero point and order in memory, which kernels go by."""
    made = torch._make_per_tensor_quantized_tensor(codes, value.q_scale(), value.q_zero_point())
    order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(value.dim())
    if order is None or value.is_contiguous() or not value.is_contiguous(memory_format=order):
        return made
    return made.contiguous(memory_format=order)


def _coded(canonical: fx.Node, expected: Tensor) -> Tensor:
    """The canonical result as the lowered graph would hold it."""
    if is_activation_quantize(canonical):
        return torch._make_per_tensor_quantized_tensor(expected, canonical.args[1], canonical.args[2])  # type: ignore[arg-type]
    grid = grid_of(canonical)
    if grid is None:
        return expected
    return torch._make_per_tensor_quantized_tensor(_on_grid(canonical, expected), *grid[:2])


def _on_grid(canonical: fx.Node, expected: Tensor) -> Tensor:
    """The codes of float values that an op has moved."""
    return qdq.quantize_per_tensor(expected, *(grid_of(canonical) or ()))


def _steps(value: Tensor, expected: Tensor) -> float:
    """The largest difference in codes; for float results in 1/255 of the expected range."""
    if value.numel() == 0:
        return 0.0
    if value.is_quantized:
        return float((value.int_repr().to(torch.int32) - expected.to(torch.int32)).abs().max())
    step = float(expected.max() - expected.min()) / 255 or 1.0
    return float((value - expected).abs().max()) / step


def mismatches(
    canonical: fx.GraphModule, lowered: Lowered, leaves: tuple[Tensor, ...], target: str
) -> tuple[Mismatch, ...]:
    """The canonical nodes (layers, not their quantizes) whose lowered op is more than one code off.

    Where one is, it is compared on inputs beside the example's too, and the smaller difference counts: values on a grid
    of their own (pixels, k/16) lie halfway between two codes by the hundred, each kernel rounds them its own way, and a
    dynamic layer adds them up.
    """
    steps = _compare(canonical, lowered, leaves)
    if any(MAX_STEPS < difference < math.inf for difference in steps.values()):
        beside = _compare(canonical, lowered, tuple(map(_beside, leaves)))
        steps = {node: min(difference, beside[node]) for node, difference in steps.items()}
    return tuple(
        Mismatch(_layers(node, lowered), difference, target)
        for node, difference in steps.items()
        if difference > MAX_STEPS
    )


def _beside(leaf: Tensor) -> Tensor:
    """Each value moved by up to a thousandth of the range, so that none lies halfway between two codes by design."""
    if not leaf.is_floating_point() or not leaf.numel() or not bool(torch.isfinite(leaf).all()):
        return leaf
    reach = float(leaf.max() - leaf.min()) / 1000
    return leaf + reach * torch.rand(leaf.shape, generator=torch.Generator().manual_seed(0), dtype=leaf.dtype)


def _compare(canonical: fx.GraphModule, lowered: Lowered, leaves: tuple[Tensor, ...]) -> dict[fx.Node, float]:
    recorder, buffers = _Recorder(canonical, set(lowered.counterpart.values())), saved_buffers(canonical)
    with torch.no_grad():
        leaves = _recorded(recorder, canonical, leaves)
        restore_buffers(canonical, buffers)  # the lowered graph holds the same ones
        checker = _Checker(lowered, recorder.found)
        checker.run(*leaves)
        restore_buffers(canonical, buffers)
    return checker.steps


def _recorded(recorder: _Recorder, canonical: fx.GraphModule, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """FXQ113 where the example does not fit: nothing has run on it before, unless something was calibrated."""
    try:
        return run_on_few(recorder, leaves)
    except Exception as error:
        node = recorder.running
        if node is None or any(map(is_activation_quantize, canonical.graph.nodes)):
            raise  # it went through calibration: the graph is at fault, not the example
        told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ExampleInputError(
            "FXQ113",
            f"the model fails on the example inputs at '{site_of(node)}': {told}",
            hint="pass example_inputs or calibration_data that the model can be called with",
            where=where(node),
        ) from error


def _layers(node: fx.Node, lowered: Lowered) -> tuple[fx.Node, ...]:
    """The layer whose result a quantize codes, with the layer before it where one kernel computes both."""
    if not is_activation_quantize(node):
        return (node,)
    source = node.all_input_nodes[0]
    return (lowered.fused[source], source) if source in lowered.fused else (source,)
