"""Advice about precision: which ranges, granularities and layers lose more than they must, by their own numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from fxquant.plan import Mode
from fxquant.profiling.advice import Advice, Kind
from fxquant.profiling.asking import as_activation, as_weight, observer_word
from fxquant.profiling.evidence import Evidence, ratio
from fxquant.profiling.noise import best_range
from fxquant.profiling.targets import rule_for
from fxquant.profiling.timing import Group
from fxquant.qconfigs import ATTENTION, CONV, LINEAR, RECURRENT, Ask
from fxquant.recipe import RecipeRule
from fxquant.targets import has_saturation_risk, isa

WORSE_DB = 6.0  # one bit: a layer that loses so much more than the median one is worth a word
LEAST_DB = 0.1  # of expected output SQNR: less is not worth a rule
LONG_TAIL = 4.0  # two bits
_PER_CHANNEL = CONV | LINEAR
_JOINS = frozenset({"add", "mul", "matmul", "cat", "iadd", "imul", "sub", "stack"})


def precision_advice(evidence: Evidence) -> Iterator[Advice]:
    """Of each group of layers that runs on codes, in graph order."""
    for group, noise in evidence.noises.items():
        if noise <= 0 or _mode(evidence, group) is Mode.FLOAT:
            continue
        yield from _ranges(evidence, group, noise)
        yield from _granularity(evidence, group, noise)
        yield from _bits(evidence, group, noise)
        yield from _float(evidence, group, noise)
    yield from _dynamic(evidence)


def weight_advice(evidence: Evidence) -> Iterator[Advice]:
    """What the weights alone say, where there is no data: the gain is of the weight's own SQNR."""
    for group in evidence.distinct_groups:
        yield from _granularity(evidence, group, None)


def _ranges(evidence: Evidence, group: Group, noise: float) -> Iterator[Advice]:
    """Another observer, where the values say that its range would lose less."""
    site = _valued(evidence, group)
    ask, seen = evidence.asks.get(site), evidence.values.get(site)
    limits = evidence.limits(site)
    if (
        ask is None
        or seen is None
        or limits is None
        or ask.mode is not Mode.STATIC
        or not evidence.has_own_range(group)
    ):
        return
    has_tail = _tail(evidence, site) >= LONG_TAIL
    bits = evidence.bits(site)
    ranges = {"minmax": (seen.low, seen.high), "histogram": best_range(seen.sketch, seen.low, seen.high, bits)}
    now = evidence.range_sqnr_db(site, limits, of_bulk=has_tail) or 0.0
    for word, edges in ranges.items():
        if word == observer_word(ask.activation):
            continue
        then = evidence.range_sqnr_db(site, edges, of_bulk=has_tail) or 0.0
        gain = evidence.gain_db({group: max(0.0, noise - ratio(now) + ratio(then))})
        if then - now < 1.0 or gain < LEAST_DB:
            continue
        why = (
            f"its values reach from {seen.low:.4g} to {seen.high:.4g}, 99.8 % of them lie in "
            f"{_bulk(evidence, site)}, and '{observer_word(ask.activation)}' chose [{limits[0]:.4g}, {limits[1]:.4g}], "
            f"which clips {seen.clipped:.2%}: {now:.1f} dB expected, {then:.1f} dB in [{edges[0]:.4g}, {edges[1]:.4g}]"
        )
        rule = _rule(evidence, group, {site: replace_activation(ask, word)})
        yield _advice(evidence, Kind.OBSERVER, site, why, rule, gain)


def replace_activation(ask: Ask, observer: str) -> Ask:
    """The same, with another observer for its activation."""
    names = {
        "minmax": "MinMaxObserver",
        "histogram": "HistogramObserver",
        "moving-average": "MovingAverageMinMaxObserver",
    }
    return replace(ask, activation=replace(ask.activation, observer=names[observer]))


def _granularity(evidence: Evidence, group: Group, noise: float | None) -> Iterator[Advice]:
    """A scale for each output channel, where one for all leaves too little to most of them."""
    for site in group.sites:
        ask, decision = evidence.asks.get(site), evidence.plan[site]
        worst = min(evidence.weights.get(site, ()), key=lambda weight: weight.sqnr_db or 0.0, default=None)
        if ask is None or worst is None or worst.granularity != "tensor" or decision.op not in _PER_CHANNEL:
            continue
        now, then = worst.sqnr_db or 0.0, worst.sqnr_per_channel_db
        gain = then - now if noise is None else evidence.gain_db({group: max(0.0, noise - ratio(now) + ratio(then))})
        if then - now < 1.0 or gain < LEAST_DB:
            continue
        why = (
            f"one scale for a {worst.name} whose channel peaks spread by {worst.values.channel_spread:.3g}: the median "
            f"channel reaches {2**worst.bits_used:.0f} of {2**worst.bits} codes; {now:.1f} dB now, "
            f"{then:.1f} dB per channel"
        )
        changed = replace(ask, weight=replace(ask.weight, granularity="channel", observer="PerChannelMinMaxObserver"))
        yield _advice(evidence, Kind.PER_CHANNEL, site, why, _rule(evidence, group, {site: changed}), gain)


def _bits(evidence: Evidence, group: Group, noise: float) -> Iterator[Advice]:
    """8 bits where fewer were asked for, and where the CPU's sums hold them."""
    for site in group.sites:
        ask = evidence.asks.get(site)
        if ask is None or ask.mode is not Mode.STATIC or ask.is_reuse or ask.activation.is_fixed:
            continue
        bits = evidence.bits(site)
        weight_bits = min((weight.bits for weight in evidence.weights.get(site, ()) if weight.bits), default=8)
        may_widen = 0 < bits < 8 and not has_saturation_risk(evidence.compiled.target, isa())
        if not may_widen and weight_bits >= 8:
            continue
        changed = ask
        if may_widen:
            changed = replace(changed, activation=replace(changed.activation, quant_min=None, quant_max=None))
        if weight_bits < 8:
            changed = replace(changed, weight=replace(changed.weight, quant_min=None, quant_max=None))
        lost = 4.0 ** -(8 - min(bits if may_widen else 8, weight_bits))
        gain = evidence.gain_db({group: noise * lost})
        if gain < LEAST_DB:
            continue
        told = [f"its activations have {bits} bits and nothing can saturate on this CPU"] if may_widen else []
        told += [f"its weights have {weight_bits} bits"] if weight_bits < 8 else []
        why = f"{' and '.join(told)}; each bit is worth 6 dB, and it has {_db(noise)} dB of its own"
        yield _advice(evidence, Kind.MORE_BITS, site, why, _rule(evidence, group, {site: changed}), gain)


def _float(evidence: Evidence, group: Group, noise: float) -> Iterator[Advice]:
    """A layer far below the others, or a value that no 8-bit range holds."""
    site, usual = _valued(evidence, group), evidence.usual_own_db
    own = _db(noise)
    has_tail = _tail(evidence, site) >= LONG_TAIL
    if not own < usual - WORSE_DB:
        return
    gain = evidence.gain_db({group: 0.0})
    limits = evidence.limits(site)
    by_range = None if limits is None else evidence.range_sqnr_db(site, limits, of_bulk=has_tail)
    if by_range is not None and ratio(by_range) > noise / 2:
        others = readers(evidence, group)
        sites = [*group.sites, *others]
        why = (
            f"its range is {_tail(evidence, site):.3g} times what 99.8 % of its values take ({_bulk(evidence, site)}): "
            f"{by_range:.1f} dB are left of those, the median layer has {usual:.1f} dB"
        )
        why += "; its readers would quantize it again, so they stay float too" if others else ""
        yield _advice(evidence, Kind.FLOAT_SITE, site, why, rule_for(evidence.plan, sites, scheme="float"), gain, sites)
        return
    why = f"{own:.1f} dB of its own, the median layer has {usual:.1f} dB"
    rule = rule_for(evidence.plan, group.sites, scheme="float")
    yield _advice(evidence, Kind.KEEP_FLOAT, site, why, rule, gain, group.sites)


def readers(evidence: Evidence, group: Group) -> list[str]:
    """Sites that compute with a group's value, through those that only pass it on."""
    found: dict[str, None] = {}
    waiting = [user for site in group.sites for user in evidence.nodes[site].users]
    by_node = {node: site for site, node in evidence.nodes.items()}
    while waiting:
        node = waiting.pop(0)
        site = by_node.get(node)
        if site is None or site in found or site in group.sites:
            continue
        found |= dict.fromkeys(evidence.groups[site].sites if site in evidence.groups else (site,))
        if not evidence.weights.get(site) and getattr(node.target, "__name__", node.target) not in _JOINS:
            waiting += list(node.users)
    return list(found)


def _dynamic(evidence: Evidence) -> Iterator[Advice]:
    """Ranges when they come, for a model that is mostly linear layers and loses by its static ranges."""
    served = LINEAR | RECURRENT | ATTENTION
    sites = [decision.site for decision in evidence.plan if decision.op in served]
    static = [site for site in sites if evidence.plan[site].mode is Mode.STATIC]
    share = evidence.float_share(sites)
    if not static or share < 0.5:
        return
    after = dict.fromkeys(evidence.noises, 0.0)
    for group in evidence.noises:
        if any(site in sites for site in group.sites):
            kept = [weight.sqnr_per_channel_db for site in group.sites for weight in evidence.weights.get(site, ())]
            after[group] = 2 * ratio(min(kept, default=40.0))  # its weights, and its input with a range of its own
    gain = evidence.gain_db(after)
    if gain < WORSE_DB / 2:
        return
    why = (
        f"{share:.0%} of the multiplications are linear layers, {len(static)} of them with static ranges, and the "
        f"output has {evidence.output_sqnr_db:.1f} dB; dynamic ranges lose only what the weights and one 8-bit input lose"
    )
    rule = RecipeRule(("*",), scheme="int8-dynamic")
    yield _advice(evidence, Kind.DYNAMIC, static[0], why, rule, gain, float_share=1 - share)


def _rule(evidence: Evidence, group: Group, changed: Mapping[str, Ask]) -> RecipeRule:
    """One rule for a whole group: sites that are fused must be asked for the same, or they come apart."""
    ask = next(iter(changed.values()))
    sites = [site for site in group.sites if evidence.plan[site].mode is Mode.STATIC or site in changed]
    weight = next((evidence.asks[site].weight for site in sites if evidence.weights.get(site)), ask.weight)
    if any(evidence.weights.get(site) for site in changed):
        weight = ask.weight
    return rule_for(evidence.plan, sites, weight=as_weight(weight), activation=as_activation(ask.activation))


def _advice(
    evidence: Evidence,
    kind: Kind,
    site: str,
    why: str,
    rule: RecipeRule,
    gain: float,
    floated: tuple[str, ...] | list[str] = (),
    *,
    float_share: float | None = None,
) -> Advice:
    share = evidence.float_share(floated) if float_share is None else float_share
    return Advice(kind, site, evidence.plan[site].module_name, why, rule, gain, "dB", gain, 0.0, share)


def _mode(evidence: Evidence, group: Group) -> Mode:
    modes = [evidence.plan[site].mode for site in group.sites]
    return next((mode for mode in modes if mode is not Mode.FLOAT), Mode.FLOAT)


def _valued(evidence: Evidence, group: Group) -> str:
    """The site whose value the group gives."""
    return next((site for site in reversed(group.sites) if site in evidence.measures), group.sites[-1])


def _tail(evidence: Evidence, site: str) -> float:
    seen = evidence.values.get(site)
    found = None if seen is None else seen.result()
    return 1.0 if found is None else found.tail


def _bulk(evidence: Evidence, site: str) -> str:
    seen = evidence.values[site]
    return f"[{seen.sketch.quantile(0.001):.4g}, {seen.sketch.quantile(0.999):.4g}]"


def _db(noise: float) -> float:
    return -10 * math.log10(noise)
