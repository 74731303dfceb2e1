"""Ties, groups, limits and choices: what goes together, and what goes."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fxquant.graphs.channel_choice import Choice, Limits, Work
from fxquant.graphs.channels import FIXED, Axis, Channels, Group, kept
from support.scale import examples


def chain(*widths: int) -> Channels:
    """Layers one after another: layer i makes widths[i] channels, and the next one reads them."""
    channels = Channels()
    for index, width in enumerate(widths):
        made = channels.made_by(Axis(f"{index}.weight", 0), width, str(index))
        channels.bind(Axis(f"{index + 1}.weight", 1), made, "")
    return channels


def test_tied_channels_are_one_component_and_one_unit():
    channels = chain(3, 3, 2)
    left, right = channels.axes[Axis("0.weight", 0)], channels.axes[Axis("1.weight", 0)]
    channels.tie(left, right, "")
    assert nx.number_connected_components(channels.dependencies) == 5
    first, second = channels.groups()
    assert (first.layers, len(first), second.layers, len(second)) == (("0", "1"), 3, ("2",), 2)
    assert first.members == ("0", "1", "2") and first.channels == 3


def test_what_is_tied_to_a_fixed_index_stays_for_the_first_reason():
    channels = chain(3)
    made = channels.axes[Axis("0.weight", 0)]
    joined = channels.tie(made, np.array([FIXED, FIXED, made[2]]), "one")
    channels.freeze(made, "two")
    assert joined.tolist() == [FIXED, FIXED, made[2]]
    assert [(group.frozen, len(group)) for group in channels.groups()] == [("one", 2), ("two", 1)]


def test_channels_that_lie_in_other_layers_are_groups_of_their_own():
    channels = chain(4)
    made = channels.axes[Axis("0.weight", 0)]
    channels.bind(Axis("side.weight", 1), made[:1], "")
    assert sorted(len(group) for group in channels.groups()) == [1, 3]


def test_a_second_binding_ties_the_two():
    channels = chain(2, 2)
    channels.bind(Axis("2.weight", 1), channels.axes[Axis("0.weight", 0)], "")
    assert [group.layers for group in channels.groups()] == [("0", "1")]


def group_of(units: int, *sizes: int) -> Group:
    made = {Axis(f"{index}.weight", 0): size for index, size in enumerate(sizes)}
    return Group(("0",), ("0",), tuple((unit,) for unit in range(units)), {}, made)


def test_limits_hold_for_every_layer_of_a_group():
    assert Limits(8, 1).units(group_of(32, 1), 9) == 16
    assert Limits(8, 1).units(group_of(32, 4), 3) == 4  # 4 channels a unit: 2 units are 8 channels
    assert Limits(8, 1).units(group_of(32, 1, 4), 3) == 8
    assert Limits(1, 10).units(group_of(32, 1, 4), 1) == 10
    assert Limits(8, 1).units(group_of(5, 1), 1) == 5  # there are no 8
    assert Limits(1, 1).units(group_of(5, 1), 0) == 1


WIDTHS = st.lists(st.integers(1, 24), min_size=1, max_size=4)


@st.composite
def choices(draw: st.DrawFn) -> tuple[Choice, Work]:
    """A chain with an importance for each unit, and the work of its layers."""
    widths = draw(WIDTHS)
    channels = chain(*widths)
    groups = channels.groups()
    source = np.random.default_rng(draw(st.integers(0, 1000)))
    scores = [source.random(len(group)).round(draw(st.integers(1, 6))) for group in groups]  # with equals among them
    axes = {
        str(i): tuple(channels.axes[axis] for axis in channels.axes if axis.tensor == f"{i}.weight")
        for i in range(len(widths))
    }
    macs = {name: 100 * int(np.prod([labels.size for labels in found])) for name, found in axes.items()}
    limits = Limits(draw(st.sampled_from((1, 2, 8))), draw(st.integers(1, 4)))
    return Choice(channels, groups, scores, limits), Work(macs, axes)


@examples(3)
@given(drawn=choices(), share=st.floats(0, 1))
def test_a_budget_is_met_and_used(drawn, share):
    choice, work = drawn
    whole = work.left(choice.channels.all_alive())
    alive = choice.by_macs(share * whole, work)
    least = work.left(choice.alive([choice.limits.units(group, 0) for group in choice.groups]))
    counts = [sum(bool(alive[unit[0]]) for unit in group.units) for group in choice.groups]
    assert work.left(alive) <= max(share * whole, least)
    for index, (group, count) in enumerate(zip(choice.groups, counts, strict=True)):
        assert count == choice.limits.units(group, count)
        more = [*counts[:index], min(len(group), count + choice.limits.step(group)), *counts[index + 1 :]]
        assert more == counts or work.left(choice.alive(more)) > share * whole


@examples(3)
@given(drawn=choices(), share=st.floats(0, 0.99))
def test_a_ratio_takes_the_least_important(drawn, share):
    choice, _ = drawn
    alive = choice.by_ratio(share)
    for group, scores in zip(choice.groups, choice.scores, strict=True):
        stays = np.array([bool(alive[unit[0]]) for unit in group.units])
        assert stays.sum() >= max(1, (1 - share) * len(group) - 1e-6)
        assert stays.all() or scores[stays].min() >= scores[~stays].max()


def test_a_share_that_is_not_exact_in_binary_is_rounded_as_written():
    channels = chain(100)
    choice = Choice(channels, channels.groups(), [np.arange(100.0)], Limits(1, 1))
    assert kept(channels.axes[Axis("0.weight", 0)], choice.by_ratio(0.29)) == 71
