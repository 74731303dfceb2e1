"""Nested values come back as they were, whatever they are made of, and no leaf is kept alive."""

from __future__ import annotations

import weakref
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.structure import flatten, flatten_with_paths, map_leaves
from support.shapes import Detection, Output, Pair


@dataclass(frozen=True, slots=True)
class Frozen:
    left: object
    right: object


@dataclass(eq=False)
class Initialized:
    """Has work in its constructor that must not run again."""

    value: object
    made: list[int] = field(default_factory=list, init=False)

    def __post_init__(self):
        if self.value is None:
            raise ValueError("never without a value")
        self.note = "kept"


leaves = st.integers() | st.none() | st.text(max_size=3)
nested = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
        st.builds(OrderedDict, st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        st.builds(Pair, inner, inner),
        st.builds(Detection, inner, inner),
        st.builds(Frozen, inner, inner),
        st.builds(lambda a: Output(a=a), inner),
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(nested)
def test_round_trip(value):
    found, paths, structure = flatten_with_paths(value, "root")
    again = structure.unflatten(found)
    assert again == value and type(again) is type(value)
    assert structure.size == len(found) == len(paths) == len(set(paths))
    assert flatten(again)[1] == structure
    assert structure.unflatten([*range(structure.size)]) is not None and str(structure)


def test_no_constructor_runs_and_other_attributes_stay():
    value = Initialized("x")
    again = map_leaves(lambda leaf: None, value)
    assert again.value is None and again.note == "kept"
    assert flatten(value)[1] == flatten(Initialized("y"))[1]


def test_a_dict_subclass_keeps_items_and_attributes_together():
    again = map_leaves(lambda leaf: leaf + 1, Output(a=1, b=2))
    assert type(again) is Output and again == {"a": 2, "b": 3} and (again.a, again.b) == (2, 3)


def test_other_structures_are_not_equal():
    kinds = [[1, 2], (1, 2), {"a": 1, "b": 2}, Pair(1, 2), Detection(1, 2), Frozen(1, 2), [1, [2]]]
    found = [flatten(kind)[1] for kind in kinds]
    assert all(left != right for index, left in enumerate(found) for right in found[:index])


@pytest.mark.parametrize("make", [list, lambda x: {"a": x[0]}, lambda x: Detection(x[0]), lambda x: Output(a=x[0])])
def test_a_structure_keeps_no_leaf_alive(make):
    tensor = torch.ones(2)
    gone = weakref.ref(tensor)
    structure = flatten(make([tensor]))[1]
    del tensor
    assert gone() is None and structure.size >= 1


def test_paths_read_like_python():
    value = {"batch": {"image": 1, "boxes": [2, Detection(3, (4, 5))]}, "d": defaultdict(int, k=6)}
    _, paths, _ = flatten_with_paths(value)
    assert paths == [
        "['batch']['image']", "['batch']['boxes'][0]", "['batch']['boxes'][1].boxes", "['batch']['boxes'][1].scores[0]",
        "['batch']['boxes'][1].scores[1]", "['d']['k']",
    ]  # fmt: skip
