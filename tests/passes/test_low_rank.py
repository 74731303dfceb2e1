"""low-rank: the algebra as laws, which rank each layer gets, what stays as it is and why, rules on parts, bad options."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.errors import NonFiniteError, UnknownTargetError, UsageError
from fxquant.origin import part_of, site_of
from fxquant.passes._factors import matrix, pair
from fxquant.passes._rank_choice import Choices, rank_for_energy, ranks_for_budget, shares
from fxquant.passes.low_rank import LowRank
from fxquant.passes.prune_magnitude import PruneMagnitude
from fxquant.tools.digits_models import MODELS
from support.asserts import assert_pass, untouched

with torch_ao.quiet():
    from torch.ao.quantization import QConfigMapping

PICTURES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
seeds = st.integers(0, 10**6)


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def compressed(model, x=PICTURES, **options):
    return fxquant.compress(model, [LowRank(**options)], example_inputs=x)


# Laws of the algebra


@given(seeds, st.integers(1, 12), st.integers(1, 12), st.booleans(), st.data())
def test_the_error_of_a_linear_layer_is_the_root_of_what_was_dropped(seed, rows, columns, has_bias, data):
    layer = seeded(lambda: nn.Linear(columns, rows, bias=has_bias), seed)
    rank = data.draw(st.integers(1, min(rows, columns)))
    first, second = pair(layer, rank, spatial=False)
    values = torch.linalg.svdvals(layer.weight.detach().double())
    error = float((layer.weight.double() - second.weight.double() @ first.weight.double()).detach().norm())
    dropped = float(values[rank:].square().sum().sqrt())
    assert math.isclose(error, dropped, rel_tol=1e-4, abs_tol=1e-6 * float(values[0]))
    assert second.bias is layer.bias and first.bias is None


CONVOLUTIONS = st.builds(
    dict,
    in_channels=st.integers(1, 4),
    out_channels=st.integers(1, 5),
    kernel_size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    bias=st.booleans(),
    padding_mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
)


@given(seeds, CONVOLUTIONS, st.booleans())
def test_at_full_rank_two_convolutions_compute_what_one_did(seed, options, spatial):
    layer = seeded(lambda: nn.Conv2d(**options), seed)
    x = torch.randn(2, options["in_channels"], 7, 8, generator=torch.Generator().manual_seed(seed))
    full = min(matrix(layer.weight, spatial=spatial).shape)
    with torch.no_grad():
        torch.testing.assert_close(pair(layer, full, spatial=spatial)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("spatial", [True, False])
def test_padding_by_a_word_stays_one(padding, spatial):
    layer = seeded(lambda: nn.Conv2d(3, 4, (5, 3), padding=padding))
    x = torch.randn(2, 3, 6, 7)
    with torch.no_grad():
        full = min(matrix(layer.weight, spatial=spatial).shape)
        torch.testing.assert_close(pair(layer, full, spatial=spatial)(x), layer(x), rtol=1e-4, atol=1e-5)


@given(seeds, st.data())
def test_the_error_of_a_spatial_pair_is_the_root_of_what_was_dropped(seed, data):
    layer = seeded(lambda: nn.Conv2d(3, 4, (3, 2)), seed)
    rank = data.draw(st.integers(1, 8))
    first, second = pair(layer, rank, spatial=True)
    whole = torch.einsum("rcix,orxj->ocij", first.weight.double(), second.weight.double())
    dropped = float(torch.linalg.svdvals(matrix(layer.weight, spatial=True))[rank:].square().sum().sqrt())
    error = float((whole - layer.weight.double()).detach().norm())
    assert math.isclose(error, dropped, rel_tol=1e-4, abs_tol=1e-6)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_one_and_three_dimensions_have_the_weight_form(kind):
    layer = seeded(lambda: kind(3, 4, 3, padding=1, stride=2))
    x = torch.randn(2, 3, *(5,) * (1 if kind is nn.Conv1d else 3))
    with torch.no_grad():
        torch.testing.assert_close(pair(layer, 4, spatial=False)(x), layer(x), rtol=1e-4, atol=1e-5)


def test_the_pass_holds_the_laws_of_a_float_pass():
    model = seeded(lambda: nn.Sequential(nn.Linear(40, 4), nn.ReLU(), nn.Linear(4, 40)))
    with torch.no_grad():  # of rank 2, exactly
        for index, (rows, columns) in ((0, (4, 40)), (2, (40, 4))):
            generator = torch.Generator().manual_seed(index)
            model[index].weight.copy_(
                torch.randn(rows, 2, generator=generator) @ torch.randn(2, columns, generator=generator)
            )
    assert_pass(LowRank(rank=2), model, torch.randn(3, 40), rtol=1e-4, atol=1e-5)


# Which rank


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=12), st.floats(0.01, 1))
def test_the_rank_for_an_energy_is_the_lowest_that_keeps_it(values, energy):
    energies = shares(torch.tensor(sorted(values, reverse=True)))
    choices = Choices(energies, 1.0, 100.0, len(values))
    rank = rank_for_energy(choices, energy)
    assert choices.kept(rank) >= energy * (1 - 1e-9)
    assert rank == 1 or choices.kept(rank - 1) < energy


@st.composite
def layers_to_choose_for(draw):
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        values = sorted(draw(st.lists(st.floats(0.05, 4), min_size=2, max_size=5)), reverse=True)
        per_rank, whole = draw(st.integers(1, 9)), draw(st.integers(2, 40))
        most = max((rank for rank in range(1, len(values) + 1) if rank * per_rank < whole), default=0)
        layers.append(Choices(shares(torch.tensor(values)), per_rank, whole, most))
    return layers


def options(layer):
    return [None, *range(1, layer.most + 1)]


def lost(layer, rank):
    return 0.0 if rank is None else 1 - layer.kept(rank)


def summed(what, layers, ranks):
    return sum(what(layer, rank) for layer, rank in zip(layers, ranks, strict=True))


@given(layers_to_choose_for(), st.floats(0.02, 0.999))
def test_a_budget_is_met_wherever_it_can_be(layers, share):
    budget = share * sum(layer.whole for layer in layers)
    found = ranks_for_budget(layers, budget)
    if found is None:
        assert sum(min(layer.cost(rank) for rank in options(layer)) for layer in layers) > budget
    else:
        assert summed(Choices.cost, layers, found) <= budget * (1 + 1e-9)


@given(layers_to_choose_for(), st.floats(1e-4, 2))
def test_at_the_stops_of_the_walk_no_other_choice_of_that_cost_loses_less(layers, price):
    """Against every choice there is. A stop is where each layer does what is best for it at one price of cost."""
    for layer in layers:
        slopes = [
            (lost(layer, low) - lost(layer, high)) / (layer.cost(high) - layer.cost(low))
            for low, high in itertools.permutations(options(layer), 2)
            if layer.cost(high) > layer.cost(low)
        ]
        assume(all(abs(slope - price) > 1e-6 * price for slope in slopes))  # at a tie rounding decides
    at_price = [min(options(layer), key=lambda r, one=layer: lost(one, r) + price * one.cost(r)) for layer in layers]
    budget = summed(Choices.cost, layers, at_price)
    found = ranks_for_budget(layers, budget)
    every = itertools.product(*map(options, layers))
    best = min(summed(lost, layers, ranks) for ranks in every if summed(Choices.cost, layers, ranks) <= budget)
    assert summed(lost, layers, found) <= best + 1e-9


def test_a_budget_takes_from_the_layer_that_loses_least():
    flat, steep = shares(torch.ones(8)), shares(torch.tensor([8.0, *[0.1] * 7]))
    layers = [Choices(flat, 2.0, 16.0, 7), Choices(steep, 2.0, 16.0, 7)]
    assert ranks_for_budget(layers, 20.0) == [None, 2]


@pytest.mark.parametrize("cost", ["macs", "parameters"])
@pytest.mark.parametrize("method", ["weight", "spatial"])
def test_the_model_costs_at_most_its_budget(method, cost):
    model = seeded(MODELS["cnn"])
    step = compressed(model, budget=0.6, cost=cost, method=method)
    (found,) = fxquant.steps_of(step.history)
    ratio = {
        "macs": found.after.macs / found.before.macs,
        "parameters": found.after.parameters / found.before.parameters,
    }
    assert 0.5 < ratio[cost] < 0.61  # biases and batch norms have parameters too


def test_the_row_tells_rank_energy_and_work():
    found = compressed(seeded(MODELS["mlp"]), rank=16, targets=["body"])
    assert found.ledger["body_3"].reason == "low rank: rank 16 of 128, 37.0 % of the energy, 0.25 of its MACs"
    assert [name for name, _ in found.named_parameters() if name.startswith("body.3")] == [
        "body.3.0.weight",
        "body.3.1.weight",
        "body.3.1.bias",
    ]


def test_the_parts_of_a_layer_carry_its_origin():
    nodes = [
        n
        for n in compressed(seeded(MODELS["mlp"]), rank=16, targets=["body.3"]).program.graph.nodes
        if "body.3" in str(n.target)
    ]
    assert [(str(n.target), site_of(n), part_of(n)) for n in nodes] == [
        ("body.3.0", "body_3", "0"),
        ("body.3.1", "body_3", "1"),
    ]


def test_the_callers_model_and_the_world_stay_as_they_are():
    model = seeded(MODELS["cnn"])
    with untouched(model):
        compressed(model, budget=0.5)


def test_a_factorized_model_trains():
    model = compressed(seeded(MODELS["mlp"]), rank=8, targets=["body"]).train()
    model(PICTURES).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# What stays as it is


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x):
        return self.fc(torch.relu(self.fc(x)))


class ReadDirectly(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x):
        return self.fc(x) @ self.fc.weight


def tied():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    model[2].weight = model[0].weight
    return model


def of_zeros():
    model = nn.Sequential(nn.Linear(16, 16))
    nn.init.zeros_(model[0].weight)
    return model


@pytest.mark.parametrize(
    ("make", "options", "site", "reason"),
    [
        (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2)), {}, "_0", "its convolution is of 2 groups: each group has a small matrix of its own"),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), {}, "_0", "its convolution is depthwise: each group has a small matrix of its own"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 3)), {}, "_0", "ConvTranspose2d has no factorized form here"),
        (lambda: nn.Sequential(nn.Linear(4, 4)), {"rank": 2}, "_0", "rank 2 of 4 would take 1.00 of its MACs, and nothing is saved"),
        (lambda: nn.Sequential(nn.Linear(4, 4)), {"energy": 1.0}, "_0", "rank 4 of 4 would take 2.00 of its MACs, and nothing is saved"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), {"targets": [nn.ReLU]}, "_1", "ReLU is neither a linear layer nor a convolution"),
        (ReadDirectly, {}, "fc", "its weight is also read directly, or computed"),
        (tied, {}, "_0", "its weight is also '2.weight'"),
        (of_zeros, {}, "_0", "its weights are all zero"),
        (MODELS["encoder"], {}, "encoder", "TransformerEncoder calls its linear layers itself"),
    ],
    ids=["grouped", "depthwise", "transposed", "no gain", "full energy", "relu", "read", "tied", "zeros", "encoder"],
)  # fmt: skip
def test_a_layer_that_stays_has_a_row_with_the_reason(make, options, site, reason):
    model = seeded(make)
    found = fxquant.compress(
        model, [LowRank(**({"rank": 1} | options if not {"rank", "energy"} & options.keys() else options))]
    )
    assert (found.ledger[site].code, found.ledger[site].reason) == ("FXQ413", f"not factorized: {reason}")


def test_a_pruned_layer_keeps_its_zeros_and_its_factors_can_be_pruned():
    model = seeded(MODELS["mlp"])
    steps = PruneMagnitude(sparsity=0.5, targets=["body.3"]), LowRank(rank=8, targets=["body"])
    first = fxquant.compress(model, steps, example_inputs=PICTURES)
    assert first.ledger["body_3"].reason == (
        "pruned: 8,192 of 16,384 weights are zero (50.0 %); not factorized: its weight was pruned, and factors would "
        "not keep the zeros (factorize first, then prune the factors)"
    )
    other = fxquant.compress(model, steps[::-1], example_inputs=PICTURES)
    assert set(other.masks) == {"body.3.0.weight", "body.3.1.weight"}


def test_every_call_of_a_shared_layer_becomes_two():
    found = compressed(seeded(Shared), torch.rand(2, 16), rank=2)
    assert [str(n.target) for n in found.program.graph.nodes if n.op == "call_module" and "fc" in str(n.target)] == [
        "fc.0",
        "fc.1",
    ] * 2
    assert fxquant.compile(found, "int8-dynamic")(torch.rand(2, 16)).shape == (2, 16)


def test_written_out_the_layers_of_an_encoder_are_reached_and_one_row_sums_them_up():
    model = seeded(MODELS["encoder"])
    found = fxquant.compress(model, ["custom-modules", LowRank(rank=16, targets=["encoder"])], example_inputs=PICTURES)
    assert found.ledger["encoder"].reason.startswith("12 parts: low rank: rank 16, ")
    assert found.ledger["encoder"].reason.endswith(" of the energy or more, 0.44 of their MACs")
    assert not any(module.training for module in found.modules())


# Quantized


@pytest.mark.parametrize("preset", ["int8", "int8-dynamic", "int8-weight-only", "float16"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "encoder"])
def test_a_factorized_model_compiles_saves_and_loads(name, preset, tmp_path):
    found = fxquant.compress(seeded(MODELS[name]), ["custom-modules", LowRank(budget=0.5)], example_inputs=PICTURES)
    compiled = fxquant.compile(found, preset, calibration_data=PICTURES)
    assert fxquant.sqnr_db(found(PICTURES), compiled(PICTURES)) > 15
    loaded = fxquant.load(compiled.save(tmp_path / "m.fxq.safetensors"))
    assert torch.equal(loaded(PICTURES), compiled(PICTURES))
    if preset == "int8-dynamic" and name == "encoder":
        row = compiled.ledger["encoder"]
        assert (
            row.requested == "float32, dynamic quint8 × qint8 per channel"
            and "runs as quantized.linear_dynamic" in row.reason
        )


def mapping_for(name):
    with torch_ao.quiet():
        dynamic = torch_ao.stock_qconfig("per_channel_dynamic_qconfig")
        return QConfigMapping().set_module_name(name, dynamic)


@pytest.mark.parametrize(
    ("name", "effective"),
    [("body.3", "int8"), ("body.3.1", "int8 (1), float32 (0)"), ("body.3.0", "int8 (0), float32 (1)")],
)
def test_a_rule_for_the_old_name_means_both_and_one_for_a_part_means_that_part(name, effective):
    found = compressed(seeded(MODELS["mlp"]), rank=16, targets=["body.3"])
    compiled = fxquant.compile(found, mapping_for(name))
    assert compiled.ledger["body_3"].effective == effective
    assert compiled.ledger["body_3"].requested.split(", ")[-1 if name == "body.3.1" else 0].startswith("dynamic")


def test_it_runs_in_the_pipeline_of_compile_as_well():
    pipeline = fxquant.default_pipeline().before("select-qconfigs", LowRank(rank=16, targets=["body.3"]))
    model = seeded(MODELS["mlp"])
    compiled = fxquant.compile(model, "int8", calibration_data=PICTURES, passes=pipeline)
    assert (
        "low rank: rank 16 of 128" in compiled.ledger["body_3"].reason and compiled.ledger["body_3"].effective == "int8"
    )
    assert {layer.site for layer in fxquant.measure(compiled).layers} >= {"body_1", "body_4", "head"}


# Bad input


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "rank=None and energy=None and budget=None"),
        ({"rank": 4, "energy": 0.5}, "rank=4 and energy=0.5"),
        ({"rank": 4, "energy": 0.5, "budget": 0.5}, "rank=4 and energy=0.5 and budget=0.5"),
        *(({"rank": value}, f"rank={value!r}") for value in (0, -1, 2.0, "4", True)),
        *(({"energy": value}, f"energy={value!r}") for value in (0, 0.0, -0.5, 1.01, math.nan, math.inf, "0.9", True)),
        *(({"budget": value}, f"budget={value!r}") for value in (0, 1, 1.0, -1, math.nan, "half")),
        ({"budget": 0.5, "cost": "latency"}, "cost='latency'"),
        ({"rank": 4, "method": "tucker"}, "method='tucker'"),
    ],
)
def test_options_that_mean_nothing_are_refused_with_their_value(options, told):
    with pytest.raises(UsageError) as caught:
        LowRank(**options)
    assert caught.value.code == "FXQ134" and caught.value.message == f"low-rank got {told}" and caught.value.hint


def test_a_rank_above_the_maximum_names_the_layer_and_its_maximum():
    with pytest.raises(UsageError) as caught:
        compressed(seeded(MODELS["mlp"]), rank=32)
    assert str(caught.value) == (
        "FXQ134 low-rank got rank=32: 'head' has at most 10\n"
        "  in pass 'low-rank', after functionalize, normalize-calls\n"
        "  hint: a lower rank, or ignore=['head']"
    )
    assert caught.value.module == "head"


def test_a_budget_that_cannot_be_met_tells_what_is_the_least():
    with pytest.raises(UsageError, match=r"budget=0.001, but 0.023 of the macs remain at rank 1 everywhere") as caught:
        compressed(seeded(MODELS["mlp"]), budget=0.001)
    assert caught.value.code == "FXQ134"


def test_a_budget_of_macs_needs_to_know_the_shapes():
    with pytest.raises(UsageError, match="how often each layer is computed is not known") as caught:
        compressed(seeded(MODELS["cnn"]), None, budget=0.5)
    assert caught.value.code == "FXQ134" and "cost='parameters'" in caught.value.hint
    assert compressed(seeded(MODELS["cnn"]), None, budget=0.5, cost="parameters").ledger["head"].reason


def test_a_target_that_the_model_does_not_have_gets_the_nearest_names():
    with pytest.raises(UnknownTargetError, match=r"'boddy' \(targets of low-rank\) matches nothing") as caught:
        compressed(seeded(MODELS["mlp"]), rank=4, targets=["boddy"])
    assert caught.value.code == "FXQ110" and "body" in caught.value.hint


def test_weights_that_are_not_finite_never_reach_the_factorization():
    model = seeded(MODELS["mlp"])
    with torch.no_grad():
        model.head.weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match=r"'head\.weight' holds 1") as caught:
        compressed(model, rank=2)
    assert caught.value.code == "FXQ302"


def test_an_unbatched_picture_has_macs_too():
    found = compressed(
        seeded(lambda: nn.Sequential(nn.Conv2d(4, 16, 3))), torch.rand(4, 8, 8), rank=2, method="spatial"
    )
    # 36 columns of 6 by 8: 2 · 4 · 3 · 48; 36 places: 2 · 16 · 3 · 36, of 16 · 4 · 9 · 36
    assert found.ledger["_0"].reason.endswith(f"{(2 * 12 * 48 + 2 * 48 * 36) / (576 * 36):.2f} of its MACs")
    (step,) = fxquant.steps_of(found.history)
    assert (step.before.macs, step.after.macs) == (576 * 36, 2 * 12 * 48 + 2 * 48 * 36)
