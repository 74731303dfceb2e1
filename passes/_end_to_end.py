"""Parity from end to end: an engine's outputs may be no worse than the canonical graph's, against the un-rounded graph.

    un-rounded:  x → quantize → dequantize   becomes   x → clamp to the same range
    own     = SQNR(un-rounded, canonical)            what quantization costs
    engine  = SQNR(un-rounded, engine)

    engine ≥ min(own, exact) − 1 dB − 10·log10(1 + 6/√n)

Two engines round in another order, and differences of one step travel: their outputs differ from each other as much as
each does from the un-rounded one, so only the noise powers can be compared. A power that is estimated from n numbers is
off by √(2/n) of itself (standard deviation, for Gaussian noise), the ratio of two by 2/√n: three of these are allowed,
and where the outputs are few, inputs beside the example add to n. `exact` is what rounding of the floats themselves
may cost: 30 dB where the engine computes floats in bfloat16 or float16 (8 and 11 bits), else 80.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import qdq
from fxquant.aliasing import restore_buffers, saved_buffers
from fxquant.engines import forms
from fxquant.graphmodule import copied
from fxquant.ledger import FLOAT
from fxquant.passes._engine_rows import is_dequantized

ALLOWED_DB = 1.0
EXACT_DB = {FLOAT: 80.0, "bfloat16": 30.0, "float16": 30.0}
ENOUGH = 2000  # numbers of an output, to tell its noise by
MOST_RUNS = 8
_AGREEING = 0.9  # share of an integer output (a class, a mask) that has to be the canonical graph's

_RECURRENT = (*forms.LAYERS, *forms.CELLS)

Run = Callable[..., Sequence[Any]]


@dataclass
class _Output:
    """Powers of one output, summed over runs."""

    count: int = 0
    signal: float = 0.0
    own: float = 0.0
    engine: float = 0.0
    agreeing: int = 0
    is_float: bool = True

    def add(self, ideal: Tensor, canonical: Tensor, engine: Tensor) -> None:
        """Powers of one run; where the ideal or the canonical value is not finite, the engine's has to be the same."""
        self.count += canonical.numel()
        self.is_float = canonical.is_floating_point()
        if not self.is_float:
            self.agreeing += int((canonical == engine).sum())
            return
        is_same = (engine == canonical) | (engine.isnan() & canonical.isnan())
        is_plain = ideal.isfinite() & canonical.isfinite()
        ideal, own, other = ideal.double(), (canonical.double() - ideal), (engine.double() - ideal)
        self.signal += float(ideal[is_plain].square().sum())
        self.own += float(own[is_plain].square().sum())
        noise = float(other[is_plain].square().sum())
        self.engine += noise if math.isfinite(noise) and bool((is_plain | is_same).all()) else math.inf

    def fault(self, exact_db: float) -> str:
        """What is wrong with it; '' for nothing."""
        if not self.count:
            return ""
        if not self.is_float:
            share = self.agreeing / self.count
            return "" if share >= _AGREEING else f"{share:.0%} of its numbers are the canonical graph's"
        own, engine = _decibels(self.signal, self.own), _decibels(self.signal, self.engine)
        least = min(own, exact_db) - ALLOWED_DB - 10 * math.log10(1 + 6 / math.sqrt(self.count))
        return "" if engine >= least else f"{engine:.1f} dB against the un-rounded model, the canonical graph {own:.1f}"


def fault(canonical: fx.GraphModule, engine: Run, leaves: tuple[Tensor, ...], float_type: str = FLOAT) -> str:
    """How far an engine's outputs are off, where they are: 'output 0: 3.1 dB ..., the canonical graph 28.4'; else ''.

    `leaves` are example inputs, `engine` takes them. RuntimeError (of any kind) where the engine fails on them.
    """
    ideal, buffers = unrounded(canonical), saved_buffers(canonical)
    outputs: list[_Output] = []
    with torch.no_grad():
        for index in range(MOST_RUNS):
            given = leaves if index == 0 else tuple(_beside(leaf, index) for leaf in leaves)
            found = _runs(given, ideal.forward, canonical.forward, engine)
            restore_buffers(canonical, buffers)
            outputs = outputs or [_Output() for _ in found[1]]
            if told := _shapes(found[1], found[2]):
                return told
            for output, *values in zip(outputs, *found, strict=True):
                if all(isinstance(value, Tensor) for value in values):
                    output.add(*values)
            if all(output.count >= ENOUGH for output in outputs) or not any(
                leaf.is_floating_point() for leaf in leaves
            ):
                break
    limit = EXACT_DB.get(float_type, EXACT_DB[FLOAT])
    found_faults = (f"output {index}: {told}" for index, one in enumerate(outputs) if (told := one.fault(limit)))
    return next(found_faults, "")


def _runs(leaves: tuple[Tensor, ...], *calls: Run) -> list[Sequence[Any]]:
    return [call(*(leaf.clone() for leaf in leaves)) for call in calls]


def _shapes(canonical: Sequence[Any], engine: Sequence[Any]) -> str:
    if len(engine) != len(canonical):
        return f"it gives {len(engine)} outputs, the canonical graph {len(canonical)}"
    for index, (ours, theirs) in enumerate(zip(canonical, engine, strict=True)):
        if not isinstance(ours, Tensor):
            if ours != theirs:
                return f"output {index} is {theirs!r:.40}, the canonical graph's {ours!r:.40}"
        elif (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            return (
                f"output {index} is {theirs.dtype} of shape {list(theirs.shape)}, "
                f"the canonical graph's {ours.dtype} of {list(ours.shape)}"
            )
    return ""


def unrounded(canonical: fx.GraphModule) -> fx.GraphModule:
    """The same graph without rounding of activations: each quantize is a clamp to its range. Weights stay as held.

    Recurrent layers round at each step, which engines leave out.
    """
    made = copied(canonical)
    nodes = list(made.graph.nodes)
    for node in nodes:
        if node.target in _RECURRENT:
            node.args = (*node.args[:-2], False, False)
    dequantizes = [node for node in nodes if is_dequantized(node)]
    quantizes = [n for n in nodes if n.target is qdq.quantize_per_tensor and n.all_input_nodes[0].op != "get_attr"]
    for node in dequantizes:
        node.replace_all_uses_with(node.args[0])
        made.graph.erase_node(node)
    for node in quantizes:
        x, scale, zero_point, low, high, _ = node.args
        if isinstance(scale, fx.Node):  # its range is that of the tensor itself
            node.replace_all_uses_with(x)
            made.graph.erase_node(node)
            continue
        node.target, node.args = torch.clamp, (x, (low - zero_point) * scale, (high - zero_point) * scale)
    made.recompile()
    return made


def _beside(leaf: Tensor, seed: int) -> Tensor:
    """Other values of the same kind: each moved by up to a hundredth of the range, in a fixed way."""
    if not leaf.is_floating_point() or not leaf.numel() or not bool(torch.isfinite(leaf).all()):
        return leaf
    reach = float(leaf.max() - leaf.min()) / 100
    return leaf + reach * torch.rand(leaf.shape, generator=torch.Generator().manual_seed(seed), dtype=leaf.dtype)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 and math.isfinite(noise) else -math.inf
