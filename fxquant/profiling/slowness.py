"""Advice about time: layers that int8 makes slower, and float islands whose crossing costs more than it saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxquant.plan import Mode
from fxquant.profiling.advice import Advice, Kind
from fxquant.profiling.crossings import Crossing
from fxquant.profiling.evidence import Evidence
from fxquant.profiling.targets import rule_for
from fxquant.recipe import RecipeRule

LEAST_RATIO = 1.2  # slower by so much: less is within what two measurements differ by
LEAST_SECONDS = 20e-6
_UNSERVED = ("FXQ204", "FXQ205", "FXQ206", "FXQ207", "FXQ208", "FXQ209", "FXQ504", "FXQ505")


def slowness_advice(evidence: Evidence, crossings: Sequence[Crossing]) -> Iterator[Advice]:
    """Nothing where nothing was timed. What it does to SQNR is not its reason, so no gain of that is expected."""
    if not evidence.node_seconds:
        return
    for crossing in crossings:
        yield from _island(evidence, crossing)
    for group in evidence.distinct_groups:
        before, after = group.float_seconds or 0.0, group.seconds or 0.0
        is_coded = any(evidence.plan[site].mode is not Mode.FLOAT for site in group.sites)
        if not is_coded or after < LEAST_RATIO * before or after - before < LEAST_SECONDS:
            continue
        why = f"{_ms(after)} as it is compiled, {_ms(before)} in the float graph (medians, one kernel at a time)"
        sites = list(group.sites)
        yield _advice(evidence, Kind.SLOWER, sites[0], why, sites, after - before)


def _island(evidence: Evidence, crossing: Crossing) -> Iterator[Advice]:
    island, sites = crossing.island, [site for group in crossing.neighbours for site in group.sites]
    called = [site for site in island.sites if evidence.plan.get(site) is not None]
    if not called or crossing.crossing_seconds < LEAST_SECONDS:
        return
    told = (
        f"{len(island.dequantizes)} dequantize and {len(island.quantizes)} quantize around it take "
        f"{_ms(crossing.crossing_seconds)}"
    )
    told += "" if island.bytes_moved is None else f" and move {island.bytes_moved:,} bytes"
    if sites and crossing.saving > 0:
        why = (
            f"{told}; its neighbours take {_ms(crossing.neighbour_seconds)} in int8 and "
            f"{_ms(crossing.neighbour_float_seconds)} in float"
        )
        yield _advice(evidence, Kind.ISLAND, called[0], why, sites, crossing.saving)
    decided = [site for site in called if _is_decided(evidence, site)]
    if decided:
        names = ", ".join(evidence.plan[site].module_name or site for site in decided)
        why = f"{told}; a rule keeps {names} float, no kernel is missing"
        rule = rule_for(evidence.plan, decided, scheme="int8")
        yield _advice(evidence, Kind.QUANTIZE, decided[0], why, [], crossing.crossing_seconds, rule)


def _is_decided(evidence: Evidence, site: str) -> bool:
    """Is it float because the plan says so, and not for want of a kernel?"""
    row = evidence.compiled.ledger[site]
    return evidence.plan[site].mode is Mode.FLOAT and row.code not in _UNSERVED


def _advice(
    evidence: Evidence,
    kind: Kind,
    site: str,
    why: str,
    floated: Sequence[str],
    seconds: float,
    rule: RecipeRule | None = None,
) -> Advice:
    made = rule_for(evidence.plan, floated, scheme="float") if rule is None else rule
    module = evidence.plan[site].module_name
    return Advice(kind, site, module, why, made, 1e3 * seconds, "ms", 0.0, seconds, evidence.float_share(floated))


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
