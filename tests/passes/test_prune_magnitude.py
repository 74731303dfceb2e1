"""prune-magnitude: which weights become zero, that they stay exactly zero in every preset and file, and bad options."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxquant
from fxquant.errors import UnknownTargetError, UsageError
from fxquant.passes._magnitude import Pattern, smallest, smallest_in_blocks, smallest_of_all
from fxquant.passes.prune_magnitude import PruneMagnitude
from fxquant.presets import PRESETS
from fxquant.tools.digits_models import MODELS
from support.asserts import untouched
from support.held_weights import held_weights, weights_like
from support.tracing import trace

PICTURES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
HALF = PruneMagnitude(sparsity=0.5)


class Upsampler(nn.Module):
    """A grouped and a transposed convolution, and a look-up."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(6, 8)
        self.down = nn.Conv1d(8, 8, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose1d(8, 4, 4, stride=2, groups=2)

    def forward(self, x):
        return self.up(torch.relu(self.down(self.words(x).transpose(1, 2))))


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def pruned(model, step=HALF, x=PICTURES):
    return fxquant.compress(model, [step], example_inputs=x)


def zeros(module, name):
    return int((module.get_parameter(name) == 0).sum())


# Which weights


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=40), st.data())
def test_exactly_as_many_are_chosen_as_were_asked_and_none_is_larger_than_one_that_stays(values, data):
    weight = torch.tensor(values)
    count = data.draw(st.integers(0, len(values)))
    mask = smallest(weight, count)
    assert int(mask.sum()) == count
    if 0 < count < len(values):
        assert weight.abs()[mask].max() <= weight.abs()[~mask].min()


def test_of_equal_weights_the_first_are_pruned():
    assert smallest(torch.tensor([1.0, -1.0, 1.0, 1.0]), 2).tolist() == [True, True, False, False]


def test_over_all_layers_the_smallest_of_all_go():
    small, large = torch.full((4,), 0.1), torch.arange(1.0, 5.0)
    masks = smallest_of_all([large, small], 5)
    assert [int(mask.sum()) for mask in masks] == [1, 4]


@given(st.integers(0, 10**6), st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (2, 8)]), st.sampled_from([0, 1, 2]))
def test_a_pattern_keeps_the_largest_of_each_block_along_its_axis(seed, pattern, axis):
    kept, block = pattern
    weight = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    mask = smallest_in_blocks(weight, Pattern(kept, block), axis)
    blocks = (~mask).movedim(axis, -1).reshape(-1, block)
    assert bool((blocks.sum(1) == kept).all())
    sizes = weight.abs().movedim(axis, -1).reshape(-1, block)
    lowest_kept = sizes.masked_fill(~blocks, math.inf).amin(1)
    assert bool((sizes.masked_fill(blocks, 0.0).amax(1) <= lowest_kept).all())


def test_a_share_of_each_layer_is_pruned():
    model = seeded(MODELS["mlp"])
    found = pruned(model)
    for name in ("body.0.weight", "body.3.weight", "head.weight"):
        assert zeros(found, name) == model.get_parameter(name).numel() // 2
        kept = found.get_parameter(name) != 0
        assert torch.equal(found.get_parameter(name)[kept], model.get_parameter(name)[kept])


def test_over_all_layers_the_sum_is_the_share():
    found = pruned(seeded(MODELS["mlp"]), PruneMagnitude(sparsity=0.7, scope="global"))
    whole = sum(mask.numel() for mask in found.masks.values())
    each = {name: float(mask.float().mean()) for name, mask in found.masks.items()}
    assert sum(int(mask.sum()) for mask in found.masks.values()) == math.floor(0.7 * whole)
    assert max(each.values()) - min(each.values()) > 0.05


def test_a_pattern_lies_along_the_inputs_of_each_kind_of_layer():
    model = seeded(Upsampler)
    found = pruned(model, PruneMagnitude(pattern="2:4"), torch.zeros(2, 6, dtype=torch.long))
    down, up = found.get_submodule("down").weight, found.get_submodule("up").weight
    assert bool(((down != 0).sum(1) <= 2).all())  # (8, 4, 3): 4 inputs of the group are one block
    assert bool(((up != 0).view(2, 4, 2, 4).sum(1) <= 2).all())  # (8, 2, 4): 4 rows of each group are one block


def test_twice_is_like_once():
    once = pruned(seeded(MODELS["cnn"]))
    twice = pruned(once)
    assert all(torch.equal(once.masks[name], twice.masks[name]) for name in once.masks)
    assert once.ledger["head"].reason == twice.ledger["head"].reason


def test_the_callers_model_stays_as_it_is():
    model = seeded(MODELS["cnn"])
    with untouched(model):
        pruned(model)


def test_a_weight_of_two_layers_is_pruned_once():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    model[2].weight = model[0].weight
    found = pruned(model, x=torch.rand(2, 8))
    assert list(found.masks) == ["0.weight"] and zeros(found, "2.weight") == 32
    assert found.get_parameter("0.weight") is found.get_parameter("2.weight")


# What is said


def test_the_row_tells_what_was_pruned_and_a_notice_that_it_brings_no_speed():
    found = pruned(seeded(MODELS["mlp"]))
    assert found.ledger["head"].reason == "pruned: 640 of 1,280 weights are zero (50.0 %)"
    notices = [row for row in found.ledger.notices if row.code == "FXQ412"]
    assert len(notices) == 1 and notices[0].reason == (
        "torch's CPU engines have no sparse kernels: pruned weights make no layer faster and no file smaller by "
        "themselves; a file of them compresses better (zip)"
    )


def test_the_row_is_kept_when_the_model_is_compiled():
    compiled = fxquant.compile(pruned(seeded(MODELS["mlp"])), "int8-dynamic")
    row = compiled.ledger["head"]
    assert row.effective == "int8" and row.reason.startswith("pruned: 640 of 1,280 weights are zero (50.0 %); runs as")


def test_one_row_tells_of_all_layers_of_an_encoder():
    row = pruned(seeded(MODELS["encoder"])).ledger["encoder"]
    assert row.reason == "pruned: 32,768 of 65,536 weights are zero (50.0 %)"


@pytest.mark.parametrize(
    ("model", "step", "site", "reason"),
    [
        (
            Upsampler,
            HALF,
            "words",
            "the engines' int8 rows have float zero points, in which 0.0 need not have a code: its zeros would not stay zero",
        ),
        (
            lambda: nn.Sequential(nn.Linear(10, 5)),
            PruneMagnitude(pattern="2:4"),
            "_0",
            "its 10 inputs are no multiple of the 4 of 2:4",
        ),
        (
            lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
            PruneMagnitude(pattern="2:3"),
            "_0",
            "its 8 inputs are no multiple of the 3 of 2:3",
        ),
        (
            lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
            PruneMagnitude(sparsity=0.5, targets=["0", nn.ReLU]),
            "_1",
            "ReLU has no weights to prune",
        ),
        (
            lambda: nn.Sequential(nn.Bilinear(4, 4, 4)),
            HALF,
            "_0",
            "Bilinear is not a layer whose weights are known to stay zero when they are quantized",
        ),
    ],
    ids=["embedding", "2:4 on 10", "2:3 on 8", "relu", "bilinear"],
)
def test_a_layer_that_is_not_pruned_has_a_row_with_the_reason(model, step, site, reason):
    found = fxquant.compress(seeded(model), [step])
    assert (found.ledger[site].code, found.ledger[site].reason) == ("FXQ412", f"not pruned: {reason}")


def test_a_layer_of_zeros_is_left_out_and_told_of():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    nn.init.zeros_(model[1].weight)
    found = pruned(model, x=torch.rand(2, 4))
    assert list(found.masks) == ["0.weight"]
    assert found.ledger["_1"].reason == "not pruned: its weights are all zero already"


def test_a_weight_that_is_also_a_table_is_left_whole():
    model = nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 6, bias=False)).eval()
    model[1].weight = model[0].weight
    found = fxquant.compress(model, [HALF])
    assert not found.masks and found.ledger["_1"].reason.startswith("not pruned: its weight is also the table of '0'")


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return nn.functional.linear(x, self.weight)


def test_the_weight_of_a_functional_call_is_pruned_once_it_belongs_to_a_layer():
    assert zeros(fxquant.compress(Functional().eval(), [HALF]), "linear.weight") == 8
    program, ledger = trace(Functional())
    HALF.run(program, ledger)
    assert ledger["linear"].code == "FXQ412" and "put 'functionalize' and 'normalize-calls'" in ledger["linear"].hint
    assert ledger["linear"].reason == "not pruned: its weight is an argument of linear, not a layer's"


# Zeros survive


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", [*MODELS, "upsampler"])
def test_every_pruned_weight_is_exactly_zero_in_the_compiled_model_and_in_its_file(name, preset, tmp_path):
    is_text = name == "upsampler"
    x = torch.arange(12).reshape(2, 6) % 6 if is_text else PICTURES
    model = seeded(Upsampler if is_text else MODELS[name])
    for module in model.modules():  # batch norms that do something
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1), nn.init.uniform_(module.weight, -2, 2)
    found = pruned(model, x=x)
    compiled = fxquant.compile(found, preset, calibration_data=x)
    loaded = fxquant.load(compiled.save(tmp_path / "m.fxq.safetensors"))
    assert len(found.masks) >= 2
    for canonical in (compiled.canonical, loaded.canonical):
        held, counted = held_weights(canonical), 0
        for parameter, mask in found.masks.items():
            made = weights_like(held, parameter, mask.shape)
            assert made, f"'{parameter}' is not found in the graph"
            counted += int(mask.sum())
            for weight in made:
                assert int((weight[mask] == 0).sum()) == int(mask.sum()), (
                    f"'{parameter}' has pruned weights that are not zero"
                )
                assert float((weight[~mask] == 0).float().mean()) < 0.2
        assert counted == sum(int(mask.sum()) for mask in found.masks.values()) > 0


def test_the_packed_weights_of_an_engine_have_the_zeros():
    found = pruned(seeded(MODELS["mlp"]))
    compiled = fxquant.compile(found, "int8", calibration_data=PICTURES, target="x86")
    packed = [value for value in vars(compiled.graph_module).values() if hasattr(value, "unpack")]
    packed += [v for m in compiled.graph_module.modules() for v in vars(m).values() if hasattr(v, "unpack")]
    weights = {tuple(value.unpack()[0].shape): value.unpack()[0].dequantize() for value in packed}
    assert len(weights) == 3
    for mask in found.masks.values():
        assert bool((weights[tuple(mask.shape)][mask] == 0).all())


def test_it_runs_in_the_pipeline_of_compile_as_well():
    pipeline = fxquant.default_pipeline().before("select-qconfigs", HALF)
    compiled = fxquant.compile(seeded(MODELS["cnn"]), "int8", calibration_data=PICTURES, passes=pipeline)
    (head,) = weights_like(held_weights(compiled.canonical), "head.weight", torch.Size((10, 32)))
    assert int((head == 0).sum()) >= 160
    assert compiled.history[0].is_changed and compiled.history[0].before.nodes == compiled.history[0].after.nodes


# Bad input


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "sparsity=None and pattern=None"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "sparsity=0.5 and pattern='2:4'"),
        *(
            ({"sparsity": value}, f"sparsity={value!r}")
            for value in (0, 1, 1.0, 1.5, -0.1, math.nan, math.inf, True, "0.5")
        ),
        *(
            ({"pattern": value}, f"pattern={value!r}")
            for value in ("4:2", "4:4", "0:4", "two:four", "2", "2:", "-1:4", 24, "2:4:8")
        ),
        ({"sparsity": 0.5, "scope": "model"}, "scope='model'"),
        ({"pattern": "2:4", "scope": "global"}, "scope='global' with pattern='2:4'"),
    ],
)
def test_options_that_mean_nothing_are_refused_with_their_value(options, told):
    with pytest.raises(UsageError) as caught:
        PruneMagnitude(**options)
    assert caught.value.code == "FXQ133" and caught.value.message == f"prune-magnitude got {told}"
    assert caught.value.hint


def test_by_its_name_alone_it_says_what_it_needs():
    with pytest.raises(UsageError, match="got sparsity=None and pattern=None"):
        fxquant.compress(seeded(MODELS["mlp"]), ["prune-magnitude"])


def test_a_layer_that_would_lose_all_of_its_weights_is_named():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    nn.init.ones_(model[0].weight), nn.init.constant_(model[1].weight, 1e-3)
    with pytest.raises(UsageError) as caught:
        pruned(model, PruneMagnitude(sparsity=0.5, scope="global"), torch.rand(2, 8))
    assert str(caught.value) == (
        "FXQ133 sparsity=0.5 over all layers would leave '1.weight' without a weight: its 64 are the smallest of all\n"
        "  in pass 'prune-magnitude', after functionalize, normalize-calls\n"
        "  hint: scope='layer' prunes each layer by itself; or leave this one out: ignore=['1']"
    )


@pytest.mark.parametrize(
    ("options", "told", "hint"),
    [
        ({"targets": ["haed"]}, "'haed' (targets of prune-magnitude) matches nothing in the model", "'head'"),
        ({"ignore": ["body.O"]}, "'body.O' (ignore of prune-magnitude) matches nothing in the model", "'body.3'"),
        ({"targets": [nn.Conv2d]}, "'Conv2d' (targets of prune-magnitude) matches nothing in the model", "known"),
        ({"targets": ["re:hea$"]}, "'re:hea$' (targets of prune-magnitude) matches nothing in the model", "'head'"),
    ],
)
def test_a_target_that_the_model_does_not_have_gets_the_nearest_names(options, told, hint):
    with pytest.raises(UnknownTargetError) as caught:
        pruned(seeded(MODELS["mlp"]), PruneMagnitude(sparsity=0.5, **options))
    assert (caught.value.code, caught.value.message) == ("FXQ110", told) and hint in caught.value.hint


@pytest.mark.parametrize("value", ["head", [3], None, [int]])
def test_targets_that_are_no_list_of_names_and_classes_are_refused(value):
    with pytest.raises(UsageError) as caught:
        PruneMagnitude(sparsity=0.5, targets=value)
    assert caught.value.code == "FXQ111" and repr(value) in caught.value.message


@pytest.mark.parametrize(
    ("targets", "ignore", "expected"),
    [
        (["head"], [], {"head.weight"}),
        (["body"], [], {"body.0.weight", "body.3.weight"}),
        ([nn.Linear], ["head"], {"body.0.weight", "body.3.weight"}),
        (["Linear"], ["re:body\\.\\d"], {"head.weight"}),
        (["re:.*3$"], [], {"body.3.weight"}),
    ],
)
def test_layers_are_chosen_by_name_prefix_class_and_regex(targets, ignore, expected):
    found = pruned(seeded(MODELS["mlp"]), PruneMagnitude(sparsity=0.5, targets=targets, ignore=ignore))
    assert set(found.masks) == expected
