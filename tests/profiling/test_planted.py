"""Planted troubles: the advice names each of them first, and the recipe that is pasted wins, measured anew."""

from __future__ import annotations

import math

import pytest
import torch

import fxquant
from fxquant import torch_ao
from fxquant.plan import Mode
from fxquant.profiling import layers, precision, trials
from fxquant.profiling.advice import Kind
from fxquant.profiling.targets import matched, rule_for
from fxquant.recipe import Recipe, parse
from support.troubled import (
    chain,
    island,
    kept_float,
    mlp_with_a_wild_channel,
    moving_average,
    narrow_weights,
    normal,
    outlier_site,
    per_tensor,
    wild_channel,
)

with torch_ao.quiet():
    from torch.ao.quantization import MinMaxObserver, QConfig, QConfigMapping, default_weight_observer

DATA = normal(16, 1, 12, 12)
DARK_FIRST = [0.2 * DATA[0], *DATA[1:]]


def output_sqnr_db(model, policy, data):
    """Measured by the test itself, on the batches and by nothing of the profile."""
    compiled = fxquant.compile(model, policy, calibration_data=data)
    with torch.no_grad():
        pairs = [(model(batch), compiled(batch)) for batch in data]
    return fxquant.sqnr_db(*(torch.cat(side) for side in zip(*pairs, strict=True)))


PLANTED = {
    "outlier site": (outlier_site, "int8", DATA, Kind.FLOAT_SITE, "second.1", 15.0),
    "wild channel": (wild_channel, per_tensor(), DATA, Kind.PER_CHANNEL, "third.0", 10.0),
    "narrow weights": (chain, narrow_weights(), DATA, Kind.MORE_BITS, "third.0", 3.0),
    "clipped range": (chain, moving_average(), DARK_FIRST, Kind.OBSERVER, "second.1", 3.0),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_advice_finds_the_planted_trouble_first_and_its_recipe_wins(name, tmp_path):
    make, start, data, kind, module, least = PLANTED[name]
    profile = fxquant.profile(make(), data, qconfig_mapping=start, most_float=1.0)
    first = profile.advice[0]
    assert (first.kind, first.module) == (kind, module), "\n".join(map(str, profile.advice))
    assert first.is_verified and first.unit == "dB" and first.gain == first.sqnr_gain_db >= least
    path = tmp_path / "pasted.toml"
    path.write_text(profile.recipe_text(), encoding="utf-8")
    before, after = (output_sqnr_db(make(), policy, data) for policy in (start, path))
    assert after >= before + least
    assert after == pytest.approx(profile.best.sqnr_db, abs=0.05), "what was told is what is measured"
    assert before == pytest.approx(profile.start.sqnr_db, abs=0.05)
    assert first.recipe_rule in profile.recipe().rules and profile.reason.startswith(
        f"{len(profile.recipe().rules) - len(as_recipe(start).rules)} of"
    )
    assert fxquant.compile(make(), profile.recipe(), calibration_data=DATA).plan.decisions


def as_recipe(start):
    return start if isinstance(start, Recipe) else Recipe((None,))


@pytest.mark.parametrize("name", ["outlier site", "clipped range"])
def test_without_trying_the_expected_gains_rank_the_planted_trouble_first(name):
    make, start, data, kind, module, _ = PLANTED[name]
    profile = fxquant.profile(make(), data, qconfig_mapping=start, verify=False)
    assert (profile.advice[0].kind, profile.advice[0].module) == (kind, module)
    assert not profile.advice[0].is_verified and "(expected)" in str(profile.advice[0])


def test_each_advice_says_the_numbers_that_it_was_computed_from():
    outlier = fxquant.profile(outlier_site(), DATA, verify=False)
    layer = outlier["second.1"]
    assert f"[{layer.quant_low:.4g}, {layer.quant_high:.4g}]" in outlier.advice[0].why
    assert f"{layer.values.channel_spread:.3g} times" in outlier.advice[0].why
    wild = fxquant.profile(wild_channel(), DATA, qconfig_mapping=per_tensor(), verify=False)
    (weight,) = wild["third.0"].weights
    assert f"spread by {weight.values.channel_spread:.3g}" in wild.advice[0].why
    assert f"{2**weight.bits_used:.0f} of 256 codes" in wild.advice[0].why


@pytest.mark.parametrize("activation", ["activation = { dynamic = true }", ""])
def test_a_wild_channel_of_a_dynamic_or_weight_only_layer_is_found_and_keeps_its_mode(activation):
    model = mlp_with_a_wild_channel()
    start = parse(f'schema = 1\n[[rule]]\ntargets = ["Linear"]\nweight = {{ granularity = "tensor" }}\n{activation}')
    data = normal(16, 32)
    profile = fxquant.profile(model, data, qconfig_mapping=start)
    first = profile.advice[0]
    assert (first.kind, first.module) == (Kind.PER_CHANNEL, "1") and first.sqnr_gain_db > 10
    modes = [
        fxquant.compile(model, policy, calibration_data=data).plan["_1"].mode for policy in (start, profile.recipe())
    ]
    assert modes[0] == modes[1] == (Mode.DYNAMIC if activation else Mode.WEIGHT_ONLY)


def test_what_a_recipe_has_no_words_for_is_not_advised_to_be_changed():
    class OwnObserver(MinMaxObserver):
        pass

    weight = default_weight_observer
    mapping = QConfigMapping().set_global(QConfig(OwnObserver.with_args(quant_min=0, quant_max=255), weight))
    profile = fxquant.profile(wild_channel(), DATA, qconfig_mapping=mapping, verify=False)
    assert profile["third.0"].weights[0].granularity == "tensor"
    assert {advice.kind for advice in profile.advice} <= {Kind.KEEP_FLOAT, Kind.FLOAT_SITE, Kind.SLOWER}
    assert any(advice.module == "third.1" for advice in profile.advice), "it is still found"


def test_weights_alone_tell_of_a_wild_channel():
    profile = fxquant.profile(wild_channel(), qconfig_mapping=per_tensor())
    assert (profile.advice[0].kind, profile.advice[0].module) == (Kind.PER_CHANNEL, "third.0")
    assert all(not advice.is_verified for advice in profile.advice)


def test_a_healthy_model_gets_no_advice_about_precision():
    profile = fxquant.profile(chain(), DATA, verify=False)
    assert [advice for advice in profile.advice if advice.gain > 1.0] == []


def test_the_recipe_makes_no_more_float_than_it_may():
    profile = fxquant.profile(outlier_site(), DATA, most_float=0.25)
    first = profile.advice[0]
    assert first.kind is Kind.FLOAT_SITE and first.is_verified and 0.25 < first.float_macs < 1.0
    assert first.recipe_rule not in profile.recipe().rules
    assert profile.best.sqnr_db >= profile.start.sqnr_db


def test_no_time_means_nothing_is_tried_and_that_is_said():
    profile = fxquant.profile(outlier_site(), DATA, seconds=0)
    assert not any(advice.is_verified for advice in profile.advice)
    assert profile.reason.startswith("FXQ321 the start is kept") and "were not tried" in profile.reason
    assert profile.start == profile.best and math.isfinite(profile.start.sqnr_db)


def test_a_change_that_cannot_be_compiled_says_why_and_the_others_go_on(monkeypatch):
    from fxquant.errors import UsageError

    compile_model, refused = trials.compile_model, []

    def refusing(model, policy, **options):
        if any(rule.scheme == "float" and "second.1" in rule.targets for rule in policy.rules):
            refused.append(policy)
            raise UsageError("FXQ111", "not this one")
        return compile_model(model, policy, **options)

    monkeypatch.setattr(trials, "compile_model", refusing)
    profile = fxquant.profile(outlier_site(), DATA, most_float=1.0)
    assert refused and profile.advice[-1].refused == "FXQ111 not this one"
    assert "cannot be compiled: FXQ111" in str(profile.advice[-1]) and not profile.advice[-1].is_verified
    assert [advice for advice in profile.advice[:-1] if advice.is_verified]


def test_a_start_that_nothing_beats_is_kept_with_the_reason(monkeypatch):
    monkeypatch.setattr(trials, "LEAST_DB", 100.0)
    profile = fxquant.profile(wild_channel(), DATA, qconfig_mapping=per_tensor())
    assert profile.recipe() == per_tensor() and profile.best == profile.start
    tried = sum(advice.is_verified for advice in profile.advice)
    assert profile.reason.startswith(f"FXQ321 the start is kept: none of {tried} tried changes gained 100.0 dB")


# Time: the kernels differ by so much that a busy machine does not turn it round --------------------------------------


def test_a_slow_island_is_found_first_when_latency_counts():
    batches = normal(8, 4, 96, 96, count=1)
    profile = fxquant.profile(island(), batches, objective="latency", most_float=1.0)
    islands = [advice for advice in profile.advice if advice.kind is Kind.ISLAND]
    (crossing,) = profile.crossings
    assert crossing.island.sites == ("erf",) and crossing.crossing_seconds > 0
    assert [group.sites for group in crossing.neighbours] == [("enter",), ("leave",)]
    assert crossing.saving == pytest.approx(
        crossing.crossing_seconds + crossing.neighbour_seconds - crossing.neighbour_float_seconds
    )
    assert profile.advice[0] is islands[0] and islands[0].site == "erf" and islands[0].unit == "ms"
    assert islands[0].recipe_rule.targets == ("enter", "leave") and islands[0].recipe_rule.scheme == "float"
    assert islands[0].recipe_rule in profile.recipe().rules and profile.best.ratio < 0.97


def test_an_island_that_a_rule_made_is_offered_to_be_quantized():
    data = normal(16, 1, 32, 32, count=1)
    profile = fxquant.profile(chain(), data, qconfig_mapping=kept_float(), objective="latency", verify=False)
    (advice,) = (one for one in profile.advice if one.kind is Kind.QUANTIZE)
    assert advice.module == "second.1" and advice.recipe_rule.targets == ("second.1",)
    assert advice.recipe_rule.scheme == "int8" and "a rule keeps second.1 float" in advice.why


# Rules ----------------------------------------------------------------------------------------------------------------


class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part, self.other = chain().head, torch.nn.Linear(10, 10)

    def forward(self, x):
        x = torch.sigmoid(self.part(x) + 1)
        return torch.tanh(self.other(x) + x)


def test_a_rule_names_modules_and_takes_functions_by_place_and_op():
    plan = fxquant.compile(Twice().eval(), "int8", calibration_data=normal(8, 16)).plan
    rule = rule_for(plan, ("part", "sigmoid"), scheme="float")
    assert rule.targets == ("part", "sigmoid") and matched(rule, plan) == ("part", "sigmoid")
    both = rule_for(plan, ("add",), scheme="float")
    assert both.targets == ("re:$",) and set(both.ignore) == {"sigmoid", "tanh"}
    assert matched(both, plan) == ("add", "add_1"), "no recipe can tell two additions at one place apart"
    recipe = Recipe((both, *parse('schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = "int8"').rules))
    compiled = fxquant.compile(Twice().eval(), recipe, calibration_data=normal(8, 16))
    floats = [decision.site for decision in compiled.plan if "float" in decision.requested]
    assert floats == ["add", "add_1"]


# Saturation -----------------------------------------------------------------------------------------------------------

EIGHT_BITS = """
schema = 1

[[rule]]
targets = ["Conv2d", "ReLU", "Linear"]
weight = {}
activation = { reduce_range = REDUCED }
"""


@pytest.mark.parametrize(("reduced", "is_risky"), [("false", True), ("false", False), ("true", True)])
def test_eight_bit_activations_saturate_where_the_cpu_has_no_vnni(monkeypatch, reduced, is_risky):
    monkeypatch.setattr(layers, "has_saturation_risk", lambda engine, cpu: is_risky)
    start = parse(EIGHT_BITS.replace("REDUCED", reduced))
    profile = fxquant.profile(chain(), DATA, qconfig_mapping=start, verify=False)
    weighted = [layer for layer in profile if layer.weights]
    assert all(layer.activation_bits == (7 if reduced == "true" else 8) for layer in weighted)
    assert all(layer.needs_seven_bits for layer in weighted), "whatever is asked: the weights' own pairs say so"
    assert all(layer.saturates == (is_risky and reduced == "false") for layer in weighted)
    assert ("exceed int16" in str(profile)) == (is_risky and reduced == "false")


@pytest.mark.parametrize("is_risky", [True, False])
def test_seven_bits_are_widened_only_where_nothing_can_saturate(monkeypatch, is_risky):
    monkeypatch.setattr(precision, "has_saturation_risk", lambda engine, cpu: is_risky)
    start = parse(EIGHT_BITS.replace("REDUCED", "true"))
    profile = fxquant.profile(chain(), DATA, qconfig_mapping=start, verify=False)
    wider = [advice for advice in profile.advice if advice.kind is Kind.MORE_BITS]
    assert len(wider) == (0 if is_risky else 1)
    if wider:
        assert wider[0].module == "*" and wider[0].recipe_rule.activation.num_bits == 8
        assert {"first.0", "fourth.1", "head"} <= set(wider[0].recipe_rule.targets)
