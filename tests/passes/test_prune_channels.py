"""prune-channels: what shrinks, and what becomes of the result."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxquant
from fxquant.graphs.costs import total
from fxquant.passes.prune_channels import PruneChannels
from support.asserts import fingerprint
from support.models import MODELS
from support.pruning import PICTURES, conv, net, pruned, residual, shapes, stays


def test_layers_that_are_added_lose_the_same_channels():
    model = pruned(residual())
    assert shapes(model) == {
        "stem.weight": (4, 3, 3, 3), "stem.bias": (4,), "branch.weight": (4, 3, 3, 3), "branch.bias": (4,),
        "norm.weight": (4,), "norm.bias": (4,), "norm.running_mean": (4,), "norm.running_var": (4,),
        "head.weight": (5, 4), "head.bias": (5,),
    }  # fmt: skip
    assert model.get_submodule("stem").out_channels == model.get_submodule("norm").num_features == 4
    assert model.get_submodule("head").in_features == 4


def test_the_channels_with_the_smallest_weights_go():
    model = net(lambda m, x: m.two(torch.relu(m.one(x))), one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    with torch.no_grad():
        for index, size in enumerate((3.0, 0.1, 2.0, 0.2, 1.0, 0.3)):
            model.one.weight[index], model.two.weight[:, index] = size, size
    made = pruned(model, torch.rand(2, 4))
    assert torch.equal(made.get_submodule("one").weight, model.one.weight[[0, 2, 4]])
    assert torch.equal(made.get_submodule("two").weight, model.two.weight[:, [0, 2, 4]])


@pytest.mark.parametrize(("importance", "left"), [("l1", 1), ("l2", 0), ("batchnorm", 2)])
def test_importance_is_what_was_asked(importance, left):
    model = net(
        lambda m, x: m.head(m.norm(m.one(x))),
        one=nn.Linear(4, 3, bias=False), norm=nn.BatchNorm1d(3), head=nn.Linear(3, 1, bias=False),
    )  # fmt: skip
    with torch.no_grad():
        model.one.weight.copy_(torch.tensor([[4.0, 0, 0, 0], [1.5, 1.5, 1.5, 1.5], [0.1, 0, 0, 0]]))
        model.norm.weight.copy_(torch.tensor([0.1, 0.2, 1.0]))
        model.head.weight.fill_(1.0)
    made = pruned(model, torch.rand(2, 4), ratio=0.7, importance=importance)
    assert torch.equal(made.get_submodule("one").weight[0], model.one.weight[left])


def test_where_there_is_no_batch_norm_the_weights_decide_and_the_ledger_says_so():
    model = net(lambda m, x: m.head(m.one(x)), one=nn.Linear(4, 8), head=nn.Linear(8, 1))
    told = [row.reason for row in pruned(model, torch.rand(2, 4), importance="batchnorm").ledger.notices]
    assert "8 → 4 channels, importance l2" in told


def test_concatenated_channels_are_cut_out_at_their_offsets():
    model = net(
        lambda m, x: m.head(torch.cat([m.left(x), x, m.right(x)], 1)),
        left=conv(3, 4), right=conv(3, 6), head=conv(13, 2),
    )  # fmt: skip
    made = pruned(model)
    assert shapes(made)["head.weight"] == (2, 2 + 3 + 3, 3, 3)
    assert torch.equal(
        made.get_submodule("head").weight[:, 2:5].sum((0, 2, 3)), model.head.weight[:, 4:7].sum((0, 2, 3))
    )


def test_a_depthwise_convolution_goes_with_its_input():
    model = net(
        lambda m, x: m.head(m.deep(m.wide(x))), wide=conv(3, 8), deep=conv(8, 8, groups=8), head=conv(8, 2)
    )  # fmt: skip
    made = pruned(model)
    assert shapes(made)["deep.weight"] == (4, 1, 3, 3) and made.get_submodule("deep").groups == 4


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_grouped_convolution_loses_whole_groups(kind):
    model = net(
        lambda m, x: m.head(m.grouped(m.wide(x))), wide=conv(3, 8), grouped=kind(8, 16, 1, groups=4), head=conv(16, 2)
    )  # fmt: skip
    made = pruned(model)
    grouped = made.get_submodule("grouped")
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (4, 8, 2)
    assert shapes(made)["wide.weight"][0] == 4 and shapes(made)["head.weight"][1] == 8


def test_flattening_makes_features_of_each_channel():
    model = net(lambda m, x: m.head(m.conv(x).flatten(1)), conv=conv(3, 4), head=nn.Linear(4 * 64, 5))
    made = pruned(model)
    assert shapes(made)["head.weight"] == (5, 2 * 64)


@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: x.view(-1, 256),
        lambda x: x.reshape(x.size(0), 4 * 64),
        lambda x: torch.reshape(x, (x.shape[0], -1)),
        lambda x: x.view(x.shape[0], x.shape[1], 64).transpose(1, 2).permute(0, 2, 1).flatten(1),
        lambda x: x.view(x.shape).flatten(2).unsqueeze(-1).squeeze(-1).reshape(-1, 256),
        lambda x: torch.cat(x.chunk(2, dim=1)[::-1], 1).flatten(1),
        lambda x: torch.cat(torch.split(x, [2, 2], 1), 1).flatten(1),
        lambda x: torch.cat([x[:, :2], x[:, 2:]], 1).flatten(1),
        lambda x: torch.cat([x[:, :-2, ..., :], x[:, 2:]], dim=1).flatten(1),
    ],
)
def test_channels_are_followed_through_reshapes_and_cuts(reshape):
    model = net(lambda m, x: m.head(reshape(torch.relu(m.conv(x)))), conv=conv(3, 4), head=nn.Linear(256, 5))
    made = pruned(model)
    assert shapes(made)["conv.weight"][0] == 2 and made(PICTURES[:3]).shape == (3, 5)


@pytest.mark.parametrize(
    "cut", [lambda x: torch.split(x, [2, 6], 1), lambda x: (x[:, :2], x[:, 2:]), lambda x: (x[:, :-6], x[:, -6:])]
)
def test_slices_of_other_sizes_lose_their_own_share(cut):
    model = net(
        lambda m, x: m.head(torch.cat([cut(m.conv(x))[1], cut(m.conv(x))[0]], 1)), conv=conv(3, 8), head=conv(8, 2)
    )
    made = pruned(model, ratio=0.67)
    assert shapes(made)["conv.weight"][0] == 1 + 2 and made(PICTURES).shape == (4, 2, 8, 8)


def test_of_each_half_that_forward_cuts_off_something_stays():
    def forward(m, x):
        first, second = (F.max_pool2d(m.conv(x).chunk(2, 1)[half], 1) for half in (0, 1))
        return m.head(torch.cat([first, second], 1))

    model = net(forward, conv=conv(3, 8), head=conv(8, 2))
    with torch.no_grad():
        model.conv.weight[:4] *= 0.01  # all of the first half would go
    made = pruned(model)
    assert shapes(made)["conv.weight"][0] == 4 and made(PICTURES).shape == (4, 2, 8, 8)
    assert torch.equal(made.get_submodule("conv").weight[:2].abs() < 0.02, torch.ones(2, 3, 3, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    "stretched",
    [
        lambda gate, x: gate,
        lambda gate, x: gate.expand(x.shape[0], x.shape[1], 8, 8),
        lambda gate, x: gate.expand(-1, 8, 8, 8),
        lambda gate, x: gate.expand_as(x),
    ],
)
def test_a_squeeze_and_excite_gate_goes_with_what_it_scales(stretched):
    def forward(m, x):
        x = m.conv(x)
        n, c, _, _ = x.size()
        gate = m.up(torch.relu(m.down(F.adaptive_avg_pool2d(x, 1).view(n, c)))).view(n, c, 1, 1)
        return m.head(x * stretched(torch.sigmoid(gate), x))

    made = pruned(net(forward, conv=conv(3, 8), down=nn.Linear(8, 4), up=nn.Linear(4, 8), head=conv(8, 2)))
    found = shapes(made)
    assert found["conv.weight"][0] == found["up.weight"][0] == found["down.weight"][1] == 4
    assert found["down.weight"][0] == 2 and made(PICTURES).shape == (4, 2, 8, 8)


def test_a_layer_that_is_called_twice_is_pruned_once():
    model = net(
        lambda m, x: m.head(m.same(torch.relu(m.same(m.stem(x))))), stem=conv(3, 8), same=conv(8, 8), head=conv(8, 2)
    )  # fmt: skip
    made = pruned(model)
    assert shapes(made)["same.weight"] == (4, 4, 3, 3) and shapes(made)["stem.weight"][0] == 4


def test_tied_parameters_stay_tied():
    model = net(lambda m, x: m.two(m.one(m.stem(x))), stem=nn.Linear(4, 6), one=nn.Linear(6, 6), two=nn.Linear(6, 6))
    model.two.weight = model.one.weight
    model.tail = nn.Linear(6, 2)
    model.function = lambda m, x: m.tail(m.two(m.one(m.stem(x))))
    made = pruned(model, torch.rand(2, 4))
    assert made.get_submodule("one").weight is made.get_submodule("two").weight
    assert shapes(made)["one.weight"] == (3, 3)


def test_parameters_that_forward_adds_or_scales_with_shrink_too():
    model = net(lambda m, x: m.head(m.conv(x) * m.scale + m.place), conv=conv(3, 8), head=conv(8, 2))
    model.scale, model.place = nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.rand(1, 8, 8, 8))
    found = shapes(pruned(model))
    assert found["scale"] == (4, 1, 1) and found["place"] == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("norm", "width"),
    [(nn.GroupNorm(4, 8), 4), (nn.InstanceNorm2d(8, affine=True), 4), (nn.PReLU(8), 4), (nn.PReLU(), 1)],
)
def test_what_has_a_number_for_each_channel_shrinks(norm, width):
    made = pruned(net(lambda m, x: m.head(m.norm(m.conv(x))), conv=conv(3, 8), norm=norm, head=conv(8, 2)))
    assert shapes(made)["norm.weight"] == (width,) and shapes(made)["conv.weight"][0] == 4
    assert made(PICTURES).shape == (4, 2, 8, 8)


def test_a_layer_norm_normalizes_what_is_left():
    model = net(lambda m, x: m.head(m.norm(m.one(x))), one=nn.Linear(4, 8), norm=nn.LayerNorm(8), head=nn.Linear(8, 2))
    made = pruned(model, torch.rand(2, 4))
    assert made.get_submodule("norm").normalized_shape == (4,) and shapes(made)["norm.weight"] == (4,)


def test_an_embedding_loses_width_and_keeps_its_rows():
    model = net(lambda m, x: m.head(m.words(x)), words=nn.Embedding(10, 8), head=nn.Linear(8, 2))
    found = shapes(pruned(model, torch.arange(6).reshape(2, 3)))
    assert found["words.weight"] == (10, 4) and found["head.weight"] == (2, 4)


def test_what_is_kept_is_a_multiple_of_round_to():
    model = net(lambda m, x: m.head(m.one(x)), one=conv(3, 20), head=conv(20, 2))
    assert [shapes(pruned(model, round_to=to))["one.weight"][0] for to in (1, 4, 8, 32)] == [10, 12, 16, 20]


def test_at_least_min_channels_are_kept():
    model = net(lambda m, x: m.head(m.one(x)), one=conv(3, 20), head=conv(20, 2))
    assert shapes(pruned(model, ratio=0.9, min_channels=7))["one.weight"][0] == 7
    made = pruned(model, ratio=0.9, min_channels=30)
    assert "round_to=1 and min_channels=30 leave none to take" in stays(made)["one"]


@pytest.mark.parametrize("name", ["resnet18", "unet", "dense_block", "mobilenet_v3", "vit"])
def test_a_budget_of_macs_is_met_and_counted_right(name):
    case = MODELS[name]
    made = pruned(case.make(), *case.inputs(), macs=0.5)
    before, after = made.history[-1].before, made.history[-1].after
    share = total(after).macs / total(before).macs
    assert 0.3 < share <= 0.5
    told = next(row.reason for row in made.ledger.notices if row.code == "FXQ410")
    assert f"{total(before).macs:,} → {total(after).macs:,} MACs ({share:.1%})" in told
    count = sum(parameter.numel() for parameter in made.parameters())
    assert f"→ {count:,} parameters" in told


def test_dead_channels_cost_nothing_with_keep_mean():
    model = net(
        lambda m, x: m.head(torch.relu(m.norm(m.stem(x)))), stem=conv(3, 8), norm=nn.BatchNorm2d(8), head=nn.Conv2d(8, 2, 1)
    )  # fmt: skip
    with torch.no_grad():
        model.norm.weight[::2], model.norm.bias[::2] = 0.0, 1.0  # relu(beta), whatever the picture
    with torch.no_grad():
        expected = model(PICTURES)
        kept, lost = (pruned(model, importance="batchnorm", keep_mean=keep)(PICTURES) for keep in (True, False))
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-6)
    assert float((lost - expected).abs().max()) > 0.1


def test_keep_mean_leaves_tied_biases_and_layers_of_two_calls_alone():
    model = net(
        lambda m, x: m.tail(m.same(m.same(m.stem(x))) + m.one(m.stem(x)) + m.two(m.stem(x))),
        stem=nn.Linear(4, 6), same=nn.Linear(6, 6), one=nn.Linear(6, 6), two=nn.Linear(6, 6), tail=nn.Linear(6, 2),
    )  # fmt: skip
    model.two.bias = model.one.bias
    made = pruned(model, torch.rand(2, 4), keep_mean=True)
    assert made.get_submodule("one").bias is made.get_submodule("two").bias
    plain = pruned(model, torch.rand(2, 4))
    assert torch.equal(made.get_submodule("same").bias, plain.get_submodule("same").bias)
    assert torch.equal(made.get_submodule("one").bias, plain.get_submodule("one").bias)
    assert not torch.equal(made.get_submodule("tail").bias, plain.get_submodule("tail").bias)


def test_nothing_changes_at_ratio_0_and_at_all_macs():
    model = residual()
    for options in ({"ratio": 0.0}, {"macs": 1.0}):
        made = pruned(model, **options)
        assert shapes(made) == shapes(model) and torch.equal(made(PICTURES), model(PICTURES))
        assert not made.history[-1].is_changed and "none of them has to go" in stays(made)["stem"]


def test_a_model_with_nothing_to_prune_says_so():
    made = pruned(net(lambda m, x: m.head(x), head=nn.Linear(4, 4)), torch.rand(2, 4))
    told = [row.reason for row in made.ledger.notices if row.code == "FXQ410"]
    assert told == [
        "prune-channels{ratio=0.5,round_to=1}: nothing can be pruned: "
        "'head' keeps 4 channels: it is an output of the model"
    ]
    bare = pruned(net(lambda m, x: m.act(x), act=nn.ReLU()), torch.rand(2, 4))
    assert bare.ledger.notices[-1].reason.endswith("nothing can be pruned: no layer makes channels of its own")


def test_a_pruned_model_can_be_pruned_again():
    case = MODELS["resnet18"]
    once = pruned(case.make(), *case.inputs())
    twice = fxquant.compress(once, [PruneChannels(ratio=0.5, round_to=1)])
    assert shapes(twice)["layers.3.1.conv2.weight"] == (16, 16, 3, 3)
    assert [row.reason.count("MACs") for row in twice.ledger.notices if not row.module] == [1, 1]


def test_pruning_twice_with_an_example_that_came_late():
    bare = fxquant.compress(residual(), [])
    made = fxquant.compress(bare, [PruneChannels(ratio=0.5, round_to=1)], example_inputs=(PICTURES,))
    assert shapes(made)["stem.weight"][0] == 4


def test_the_rows_of_pruned_layers_say_so_after_quantization():
    compiled = fxquant.compile(pruned(residual()), "int8", calibration_data=PICTURES)
    row = next(row for row in compiled.ledger.layers if row.module == "branch")
    assert row.reason.startswith("pruned, 8 → 4 channels by importance l2; ")


def test_the_callers_model_is_left_alone_and_the_result_trains():
    model = residual()
    before = fingerprint(model)
    made = pruned(model).train()
    made(PICTURES).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert fingerprint(model) == before


def test_each_node_keeps_its_origin():
    made = pruned(residual())
    before, after = made.history[-1].before, made.history[-1].after
    assert [node.origins for node in before] == [node.origins for node in after]


@pytest.mark.parametrize("name", ["resnet18", "unet", "mobilenet_v3", "dense_block"])
def test_pruned_then_compiled_then_saved_is_bit_equal(name, tmp_path):
    case = MODELS[name]
    model = case.make()
    before = fingerprint(model)
    made = pruned(model, *case.inputs(), macs=0.5)
    compiled = fxquant.compile(made, "int8", calibration_data=case.batches(2))
    loaded = fxquant.load(compiled.save(tmp_path / "pruned.fxq.safetensors"))
    inputs = case.inputs(3)
    assert torch.equal(loaded(*inputs), compiled(*inputs))
    assert fxquant.sqnr_db(made(*inputs), compiled(*inputs)) > 20
    assert fingerprint(model) == before


def test_in_compile_it_runs_before_the_policy():
    model = residual()
    steps = fxquant.default_pipeline().before("select-qconfigs", PruneChannels(ratio=0.5, round_to=1))
    compiled = fxquant.compile(model, "int8", calibration_data=PICTURES, passes=steps)
    apart = fxquant.compile(pruned(model), "int8", calibration_data=PICTURES)
    torch.testing.assert_close(compiled(PICTURES), apart(PICTURES), rtol=0, atol=0)


def test_groups_can_be_outlined_in_a_picture():
    captured = fxquant.compress(residual(), [], example_inputs=(PICTURES,))
    report, _ = PruneChannels(ratio=0.5).plan(captured.program)
    assert report.outlines() == [
        ("8 channels of one group", ("stem", "norm", "branch")),
        ("5 channels stay: it is an output of the model", ("head",)),
    ]
    assert "island 1" in fxquant.draw(captured.graph_module, islands=report.outlines()).dot


def test_weights_stay_channels_last_and_frozen():
    model = residual().to(memory_format=torch.channels_last)
    model.stem.weight.requires_grad_(False)
    made = pruned(model)
    assert made.get_submodule("branch").weight.is_contiguous(memory_format=torch.channels_last)
    assert [name for name, one in made.named_parameters() if not one.requires_grad] == ["stem.weight"]


class Counting(nn.Module):
    """Counts its calls, in a buffer and in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.steps.add_(1)
        return x


def test_running_the_example_leaves_no_trace_in_the_result():
    model = net(
        lambda m, x: m.head(torch.relu(m.conv(m.count(x)))), count=Counting(), conv=conv(3, 8), head=conv(8, 2)
    )  # fmt: skip
    step = PruneChannels(ratio=0.5, round_to=1, keep_mean=True)
    for leaves in ((), (Counting,)):
        made = fxquant.compress(model, [step], example_inputs=(PICTURES,), leaf_modules=leaves)
        assert shapes(made)["conv.weight"][0] == 4
        assert all(float(one) == 0 for name, one in made.named_buffers() if "steps" in name)
        assert all(one.calls == 0 for one in made.modules() if isinstance(one, Counting))


def test_the_global_state_is_left_alone():
    torch.manual_seed(7)
    before = copy.deepcopy(torch.get_rng_state())
    model = residual()
    torch.set_rng_state(before)
    pruned(model)
    assert torch.equal(torch.get_rng_state(), before)
