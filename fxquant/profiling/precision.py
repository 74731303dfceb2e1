"""Advice about precision: which ranges, granularities and layers lose more than they must, by their own numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fxquant.plan import Mode
from fxquant.profiling.advice import Advice, Kind
from fxquant.profiling.asking import as_activation, as_weight, has_words, observer_word, with_observer
from fxquant.profiling.evidence import Evidence
from fxquant.profiling.losses import LONG_TAIL, WIDE_SPREAD, Losses, decibels, ratio
from fxquant.profiling.noise import best_range
from fxquant.profiling.targets import readers, rule_for
from fxquant.profiling.timing import Group
from fxquant.qconfigs import ATTENTION, CONV, LINEAR, RECURRENT, Ask
from fxquant.recipe import RecipeRule
from fxquant.targets import has_saturation_risk, isa

WORSE_DB = 6.0  # one bit: a layer that loses so much more than the median one is worth a word
LEAST_DB = 0.1  # of expected output SQNR: less is not worth a rule
MOST = 0.4  # of the noise of all layers: such a one is worth a word even where it is no worse than the median
BETTER_DB = 1.0  # of a range or a weight: less is within what these expectations are wrong by
_PER_CHANNEL = CONV | LINEAR
_DYNAMIC = LINEAR | RECURRENT | ATTENTION


def precision_advice(losses: Losses) -> Iterator[Advice]:
    """Of each group of layers that runs on codes, in graph order; then of the model as a whole.

    Float is the last resort: it is advised where nothing cheaper is expected to bring a layer near the median one.
    """
    for group, noise in losses.noises.items():
        is_coded = any(losses.evidence.plan[site].mode is not Mode.FLOAT for site in group.sites)
        if noise <= 0 or not is_coded:
            continue
        cheap = [*_ranges(losses, group, noise), *_granularity(losses, group, noise)]
        yield from (advice for advice, _ in cheap)
        narrow = _narrow(losses, group)
        wider = noise if narrow is None else noise * _per_bits(narrow)
        yield from _float(losses, group, noise, min((*(left for _, left in cheap), wider)))
    yield from _bits(losses)
    yield from _dynamic(losses)


def weight_advice(losses: Losses) -> Iterator[Advice]:
    """What the weights alone say, where there is no data: the gain is of the weight's own SQNR."""
    for group in losses.evidence.distinct_groups:
        yield from (advice for advice, _ in _granularity(losses, group, None))


def _ranges(losses: Losses, group: Group, noise: float) -> Iterator[tuple[Advice, float]]:
    """Another observer, where the values say that its range would lose less; and the noise that would be left."""
    evidence, site = losses.evidence, losses.valued(group)
    ask, values, limits = evidence.asks.get(site), evidence.values.get(site), evidence.limits(site)
    if ask is None or values is None or limits is None or ask.mode is not Mode.STATIC:
        return
    if not losses.has_own_range(group) or not has_words(ask):
        return
    word, bits = observer_word(ask.activation), evidence.bits(site)
    ranges = {
        "minmax": (values.low, values.high),
        "histogram": best_range(values.sketch, values.low, values.high, bits),
    }
    now = losses.range_db(site, limits) or 0.0
    for other, edges in ranges.items():
        then = losses.range_db(site, edges, bits) or 0.0
        left = max(0.0, noise - ratio(now) + ratio(then))
        gain = losses.gain_db({group: left})
        if other == word or then - now < BETTER_DB or gain < LEAST_DB:
            continue
        why = (
            f"'{word}' chose [{limits[0]:.4g}, {limits[1]:.4g}], which clips {values.clipped:.2%}; the values reach "
            f"from {values.low:.4g} to {values.high:.4g}, 99.8 % of them lie in {_bulk(evidence, site)}: "
            f"{now:.1f} dB expected, {then:.1f} dB in [{edges[0]:.4g}, {edges[1]:.4g}]"
        )
        rule = _rule(evidence, group, site, with_observer(ask, other))
        yield _advice(evidence, Kind.OBSERVER, site, why, rule, gain), left


def _granularity(losses: Losses, group: Group, noise: float | None) -> Iterator[tuple[Advice, float]]:
    """A scale for each output channel, where one for all leaves too little to most; and the noise that would be left.

    Without data (`noise` is None) the gain is of the weight's own SQNR.
    """
    evidence = losses.evidence
    for site in group.sites:
        ask, decision = evidence.asks.get(site), evidence.plan[site]
        worst = min(evidence.weights.get(site, ()), key=lambda weight: weight.sqnr_db or 0.0, default=None)
        if ask is None or worst is None or worst.granularity != "tensor" or decision.op not in _PER_CHANNEL:
            continue
        if not has_words(ask):
            continue
        now, then = worst.median_sqnr_db or 0.0, worst.median_per_channel_db
        left = ratio(then) if noise is None else max(0.0, noise - ratio(now) + ratio(then))
        gain = then - now if noise is None else losses.gain_db({group: left})
        if gain < LEAST_DB or (worst.values.channel_spread or 1.0) < 2.0:
            continue
        why = (
            f"one scale for a {worst.name} whose channel peaks spread by {worst.values.channel_spread:.3g}: the median "
            f"channel reaches {2**worst.bits_used:.0f} of {2**worst.bits} codes and has {now:.1f} dB; "
            f"with a scale for each channel it has {then:.1f} dB"
        )
        weight = replace(ask.weight, granularity="channel", axis=0, observer="PerChannelMinMaxObserver")
        rule = _rule(evidence, group, site, replace(ask, weight=weight))
        yield _advice(evidence, Kind.PER_CHANNEL, site, why, rule, gain), left


def _bits(losses: Losses) -> Iterator[Advice]:
    """8 bits where fewer were asked for, and where the CPU's sums hold them: one rule for all that ask alike."""
    alike: dict[tuple[int, int, Ask], list[Group]] = {}
    for group in losses.noises:
        found = _narrow(losses, group)
        if found is not None:
            alike.setdefault(found, []).append(group)
    for narrow, groups in alike.items():
        bits, weight_bits, ask = narrow
        gain = losses.gain_db({one: losses.noises[one] * _per_bits(narrow) for one in groups})
        told = [f"activations have {bits} bits and nothing can saturate on this CPU"] if bits < 8 else []
        told += [f"weights have {weight_bits} bits"] if weight_bits < 8 else []
        sites = [site for group in groups for site in group.sites if losses.evidence.plan[site].mode is Mode.STATIC]
        why = f"{' and '.join(told)} at {len(sites)} sites; each bit is worth 6 dB"
        plan = losses.evidence.plan
        rule = rule_for(plan, sites, weight=as_weight(ask.weight), activation=as_activation(ask.activation))
        made = _advice(losses.evidence, Kind.MORE_BITS, sites[0], why, rule, gain)
        yield replace(made, module="*") if len(groups) > 1 else made


def _per_bits(narrow: tuple[int, int, Ask]) -> float:
    """How many times less noise 8 bits have than these: 6 dB a bit."""
    return float(2.0 ** (-2 * (8 - min(narrow[:2]))))


def _narrow(losses: Losses, group: Group) -> tuple[int, int, Ask] | None:
    """(bits of activations, of weights, what to ask for instead) of a static group that has fewer than it may."""
    evidence = losses.evidence
    is_safe = not has_saturation_risk(evidence.compiled.engine, isa())
    weighted = next((site for site in group.sites if evidence.weights.get(site)), losses.valued(group))
    ask = evidence.asks.get(weighted)
    if ask is None or ask.mode is not Mode.STATIC or ask.is_reuse or not has_words(ask):
        return None
    bits = evidence.bits(weighted) if is_safe and losses.has_own_range(group) else 8
    weight_bits = min((weight.bits for weight in evidence.weights.get(weighted, ()) if weight.bits), default=8)
    if min(bits, weight_bits) >= 8:
        return None
    activation, weight = (
        replace(half, quant_min=None, quant_max=None) if given < 8 else half
        for half, given in ((ask.activation, bits), (ask.weight, weight_bits))
    )
    return bits, weight_bits, replace(ask, activation=activation, weight=weight)


def _float(losses: Losses, group: Group, noise: float, left: float) -> Iterator[Advice]:
    """A layer far below the others, or a value that no 8-bit range holds. `left`: its noise after cheaper changes."""
    evidence, site = losses.evidence, losses.valued(group)
    share = noise / sum(losses.noises.values())
    is_far_below = ratio(losses.usual_db - WORSE_DB) < left  # NaN is no reason
    if not is_far_below and not (share >= MOST and left == noise):
        return
    told = f"the median layer has {losses.usual_db:.1f} dB; it adds {share:.0%} of all noise"
    limits = evidence.limits(site) if losses.has_own_range(group) else None
    by_range = None if limits is None else losses.range_db(site, limits)
    is_of_range = by_range is not None and ratio(by_range) >= noise / 2
    others = readers(evidence, group) if is_of_range else []
    if is_of_range:
        why = f"its range{_troubled(evidence, site)} leaves {by_range:.1f} dB, {told}"
        why += "; its readers would quantize it again, so they stay float too" if others else ""
    else:
        why = f"{decibels(noise):.1f} dB of its own, {told}"
    sites = (*group.sites, *others)
    kind = Kind.FLOAT_SITE if others else Kind.KEEP_FLOAT
    rule = rule_for(evidence.plan, sites, scheme="float")
    yield _advice(evidence, kind, site, why, rule, losses.gain_db({group: 0.0}), sites)


def _troubled(evidence: Evidence, site: str) -> str:
    """What about its values makes the range too wide."""
    seen, limits = evidence.seen[site], evidence.limits(site)
    told = "" if limits is None else f" [{limits[0]:.4g}, {limits[1]:.4g}]"
    if seen is not None and seen.tail >= LONG_TAIL:
        return f"{told}, where 99.8 % of the values lie in {_bulk(evidence, site)},"
    if seen is not None and (seen.channel_spread or 1.0) >= WIDE_SPREAD:
        return f"{told}, where the largest channel peak is {seen.channel_spread:.3g} times the median one,"
    return told


def _dynamic(losses: Losses) -> Iterator[Advice]:
    """Ranges when they come, for a model that is mostly linear layers and loses by its static ranges."""
    evidence = losses.evidence
    sites = [decision.site for decision in evidence.plan if decision.op in _DYNAMIC]
    static = [site for site in sites if evidence.plan[site].mode is Mode.STATIC]
    share = evidence.float_share(sites)
    if not static or share < 0.5:
        return
    after = dict.fromkeys(losses.noises, 0.0)
    for group in losses.noises:
        kept = [one.median_per_channel_db for site in group.sites for one in evidence.weights.get(site, ())]
        if any(site in sites for site in group.sites):
            after[group] = 2 * ratio(min(kept, default=40.0))  # its weights, and its input with a range of its own
    gain = losses.gain_db(after)
    if gain < WORSE_DB / 2:
        return
    why = (
        f"{share:.0%} of the multiplications are linear layers, {len(static)} of them with static ranges, and the "
        f"output has {evidence.output_sqnr_db:.1f} dB; dynamic ranges lose only what weights and one 8-bit input lose"
    )
    rule = RecipeRule(("*",), scheme="int8-dynamic")
    made = _advice(evidence, Kind.DYNAMIC, static[0], why, rule, gain)
    yield replace(made, module="*", float_macs=1 - share)


def _rule(evidence: Evidence, group: Group, site: str, ask: Ask) -> RecipeRule:
    """One rule for a whole group: sites that are fused must be asked for the same, or they come apart."""
    sites = [one for one in group.sites if evidence.plan[one].mode is Mode.STATIC or one == site]
    weight = ask.weight
    if not evidence.weights.get(site):
        weight = next((evidence.asks[one].weight for one in sites if evidence.weights.get(one)), ask.weight)
    return rule_for(evidence.plan, sites, weight=as_weight(weight), activation=as_activation(ask.activation))


def _advice(
    evidence: Evidence, kind: Kind, site: str, why: str, rule: RecipeRule, gain: float, floated: Sequence[str] = ()
) -> Advice:
    share = evidence.float_share(floated)
    return Advice(kind, site, evidence.plan[site].module_name, why, rule, gain, "dB", gain, 0.0, share)


def _bulk(evidence: Evidence, site: str) -> str:
    sketch = evidence.values[site].sketch
    return f"[{sketch.quantile(0.001):.4g}, {sketch.quantile(0.999):.4g}]"
