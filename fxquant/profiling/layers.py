"""The rows of a profile: each call site of the plan with what is known of it, then modules that are never called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from fxquant.plan import Decision, Mode
from fxquant.profiling.evidence import Evidence
from fxquant.profiling.layer import Layer
from fxquant.profiling.losses import Losses
from fxquant.profiling.weights import profile_weight
from fxquant.targets import has_saturation_risk, isa

NEVER = "forward() never calls it"


def layers_of(losses: Losses, model: nn.Module) -> tuple[Layer, ...]:
    """In graph order; uncalled modules with weights last."""
    evidence = losses.evidence
    return (*(_layer(losses, decision) for decision in evidence.plan), *_uncalled(evidence, model))


def _layer(losses: Losses, decision: Decision) -> Layer:
    evidence = losses.evidence
    site, row = decision.site, evidence.compiled.ledger[decision.site]
    measure, seen = evidence.measures.get(site), evidence.values.get(site)
    group = evidence.groups[site]
    limits = evidence.limits(site)
    low, high = (None, None) if limits is None else limits
    made = Layer(
        site=site,
        module=decision.module_name,
        op=decision.op,
        where=evidence.where(site),
        requested=decision.requested,
        effective=row.effective,
        reason=f"{row.code} {row.reason}".strip(),
        weights=evidence.weights.get(site, ()),
        values=evidence.seen.get(site),
        quant_low=low,
        quant_high=high,
        clipped=seen.clipped if seen is not None and low is not None else None,
        range_sqnr_db=None if limits is None else losses.range_db(site, limits),
        sqnr_db=None if measure is None else measure.sqnr_db,
        own_sqnr_db=None if measure is None else measure.own_sqnr_db,
        activation_bits=evidence.bits(site),
        macs=evidence.macs.get(site) if evidence.measures else None,
        float_seconds=evidence.float_seconds.get(site),
        seconds=group.seconds,
        group_float_seconds=group.float_seconds,
        computed_with=tuple(other for other in group.sites if other != site),
    )
    return replace(made, saturates=_saturates(evidence, decision, made))


def _saturates(evidence: Evidence, decision: Decision, layer: Layer) -> bool:
    is_coded = decision.mode is Mode.STATIC and layer.activation_bits == 8
    return is_coded and layer.needs_seven_bits and has_saturation_risk(evidence.compiled.engine, isa())


def _uncalled(evidence: Evidence, model: nn.Module) -> Iterator[Layer]:
    """Modules with weights of their own of which no call site knows anything."""
    called = {str(node.target) for node in evidence.floating.graph.nodes if node.op in ("call_module", "get_attr")}
    for name, module in model.named_modules():
        own = [(key, value) for key, value in module.named_parameters(recurse=False) if value.dim() >= 2]
        if not own or any(_is_within(name, key, target) for key, _ in own for target in called):
            continue
        weights = tuple(profile_weight(key, value, type(module).__name__, None) for key, value in own)
        yield Layer("", name, type(module).__name__, "", "", "", NEVER, weights=weights)


def _is_within(module: str, parameter: str, target: str) -> bool:
    """Is it the module itself, a part of one that is called as a whole, or is the parameter read by its name?"""
    path = f"{module}.{parameter}" if module else parameter
    return target in ("", module, path) or module.startswith(f"{target}.")
