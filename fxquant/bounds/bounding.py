"""error_bound(): how far a compiled model may be from its float model, derived from its scales.

    |q - f| <= |q - v| + |v - f|

q is what an engine gives, f what the float model gives. v, the centre, is the canonical graph without the rounding of
its activations: quantized weights, folded norms and clipping are in it, so their part |v - f| is computed, not bounded.
What the roundings may do, |q - v|, is bounded node by node (see `Bounded`). Float ops before the first rounding are the
same calls on the same numbers in every graph: they are taken as they come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from fxquant import qdq
from fxquant.bounds.bounded import Bounded, lifted
from fxquant.bounds.explaining import Explain
from fxquant.bounds.result import ErrorBound, LayerBound, LeafBound, Unbounded, Unexplained, difference
from fxquant.bounds.rounding import nothing_rounded
from fxquant.bounds.walk import Walk
from fxquant.errors import UnmeasurableError
from fxquant.program import Stage
from fxquant.sites import Reference, computed_sites, run_once
from fxquant.structure import flatten_with_paths

if TYPE_CHECKING:
    from fxquant.model import CompiledModel
    from fxquant.row import Row


_ROUNDINGS = (qdq.quantize_per_tensor, qdq.dequantize_per_tensor)


def error_bound(
    compiled: CompiledModel,
    inputs: tuple[Any, ...] | Mapping[str, Any] | Tensor,
    *,
    model: nn.Module | None = None,
) -> ErrorBound:
    """A sound bound on |compiled(inputs) - float(inputs)| for each output element, on every engine, and an estimate.

    Args:
        compiled: CONVERTED or LOWERED.
        inputs: one call's arguments: a tensor, a tuple, a mapping of keywords, or `(args, kwargs)`.
        model: the float model, where the one that was compiled is gone.

    Raises:
        UnmeasurableError: FXQ313 when the float model is gone or changed, or while the model is still calibrating.
    """
    if compiled.stage < Stage.CONVERTED:
        raise UnmeasurableError("FXQ313", f"the model is {compiled.stage.name}", hint="call convert() first")
    leaves = _leaves(compiled, inputs)
    floating, canonical = compiled.trace_float(model).graph_module, compiled.canonical
    sites = computed_sites(canonical)
    reference, walk = Reference(floating, frozenset(sites.values())), Walk(canonical)
    expected, found = (run_once(interpreter, leaves) for interpreter in (reference, walk))
    explain = Explain(canonical, sites, reference.values)
    with nothing_rounded():
        run_once(explain, leaves)
    at_sites = {
        site: _at_site(node, walk, reference.values[site])
        for node, site in sites.items()
        if node in walk.found and _is_alike(walk.found[node], reference.values.get(site))
    }
    paths = _paths(compiled)
    return ErrorBound(
        leaves=tuple(_leaf(*three) for three in zip(paths, found, expected, strict=True)),
        layers=_layers(compiled, at_sites, sites, explain),
        unbounded=tuple(Unbounded(site, reason) for site, reason in walk.unbounded.items()),
        unexplained=tuple(Unexplained(site, explain.shift[site], excess) for site, excess in explain.excess.items()),
        _signature=compiled.program.signature,
        _sites=at_sites,
    )


def _leaves(compiled: CompiledModel, inputs: Any) -> tuple[Tensor, ...]:
    signature = compiled.program.signature
    match inputs:
        case Tensor():
            return signature.leaves((inputs,), {})
        case Mapping():
            return signature.leaves((), inputs)
        case (tuple() as args, Mapping() as kwargs):
            return signature.leaves(args, kwargs)
        case _:
            return signature.leaves(tuple(inputs), {})


def _is_alike(found: Bounded, expected: Tensor | None) -> bool:
    return expected is not None and found.value.shape == expected.shape


def _leaf(path: str, found: Any, expected: Any) -> LeafBound:
    bounded = lifted(found)
    shift = difference(bounded.value, expected)
    return LeafBound(path, bounded.error + shift, (bounded.variance + shift.square()).sqrt())


def _at_site(node: fx.Node, walk: Walk, expected: Tensor) -> Tensor:
    """Before its result is rounded and after it, whichever is more: an engine's kernel gives the rounded one."""
    coded = [walk.found[user] for user in node.users if user.target is qdq.quantize_per_tensor and user in walk.found]
    bounds = [_leaf("", value, expected).bound for value in (walk.found[node], *coded)]
    return torch.stack(bounds).amax(0)


def _paths(compiled: CompiledModel) -> tuple[str, ...]:
    """Where the graph's outputs stand in the model's own, each at its first place."""
    signature = compiled.program.signature
    assert signature.output_structure is not None
    marks = list(range(signature.output_structure.size))
    paths = flatten_with_paths(signature.output_structure.unflatten(marks))[1]
    count = 1 + max((item for item in signature.outputs if isinstance(item, int)), default=-1)
    return tuple(paths[signature.outputs.index(index)] for index in range(count))


def _half_step(node: fx.Node) -> float:
    """Of the quantize after the node, or of its own: a dequantize has a site where its range is an activation."""
    roundings = [user for user in node.users if user.target is qdq.quantize_per_tensor]
    scales = [found.args[1] for found in (*roundings, node) if found.target in _ROUNDINGS]
    return max((scale for scale in scales if isinstance(scale, float)), default=0.0) / 2


def _layers(
    compiled: CompiledModel, bounds: Mapping[str, Tensor], sites: Mapping[fx.Node, str], explain: Explain
) -> tuple[LayerBound, ...]:
    nodes = {site: node for node, site in sites.items()}
    return tuple(
        _layer(row, bounds[row.site], _half_step(nodes[row.site]), explain)
        for row in compiled.ledger.layers
        if row.site in bounds
    )


def _layer(row: Row, bound: Tensor, half_step: float, explain: Explain) -> LayerBound:
    largest, mean = (float(bound.max()), float(bound.mean())) if bound.numel() else (0.0, 0.0)
    own = explain.shift.get(row.site, 0.0) + half_step
    return LayerBound(
        site=row.site,
        module=row.module,
        op=row.op,
        largest=largest,
        mean=mean,
        own=own,
        passed_on=max(0.0, largest - own),
        weights=explain.allowed.get(row.site, 0.0),
    )
