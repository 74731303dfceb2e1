"""Snapshots and patches that somebody changed: read as what they say, or refused with a code, and nothing runs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.errors import FxQuantError
from fxquant.graphs.diffing import diff
from fxquant.graphs.patching import Patch
from fxquant.graphs.snapshot import GraphSnapshot
from support.compiling import compiled
from support.counting import counted
from support.drawn import node, snapshots
from support.guard import guarded
from support.models import MODELS
from support.mutations import mutated_bytes, mutated_json, mutated_text

MANY = settings(max_examples=settings().max_examples * 2)
LONGEST = 2000  # letters of a message


def assert_snapshot_law(text: str) -> None:
    counted("mutation of a snapshot")
    try:
        found = guarded(lambda: GraphSnapshot.from_json(text))
    except FxQuantError as error:
        assert error.code == "FXQ620" and len(str(error)) < LONGEST
        return
    again = found.to_json()
    assert GraphSnapshot.from_json(again) == found
    assert json.loads(again) == json.loads(text), "it is read as what it says"
    guarded(lambda: (found.digest, diff(found, found)))


def assert_patch_law(text: str, before: GraphSnapshot) -> None:
    counted("mutation of a patch")
    try:
        found = guarded(lambda: Patch.from_json(text))
        again = found.to_json()
        assert Patch.from_json(again) == found and Patch.from_json(again).to_json() == again
        after = guarded(lambda: found.apply(before))
        assert GraphSnapshot.from_json(after.to_json()) == after, "what a patch makes is a graph that can be read"
    except FxQuantError as error:
        assert error.code == "FXQ621" and len(str(error)) < LONGEST


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    """What is imported late is imported before the guard goes up."""
    graph = compiled(MODELS["mlp"]).snapshot("traced")
    assert diff(graph, graph).is_empty and graph.digest


@MANY
@given(st.data())
def test_letters_changed_in_a_snapshot(data):
    source, other = (data.draw(snapshots()).to_json() for _ in range(2))
    assert_snapshot_law(data.draw(mutated_text(source, other)))


@MANY
@given(st.data())
def test_values_changed_in_a_snapshot(data):
    assert_snapshot_law(data.draw(mutated_json(data.draw(snapshots(most=6)).to_json())))


@given(st.data())
def test_bytes_changed_in_a_real_snapshot(data):
    source, other = (compiled_once(stage) for stage in ("lowered", "traced"))
    assert_snapshot_law(data.draw(mutated_bytes(source, other)).decode("utf-8", "replace"))


REAL: dict[str, bytes] = {}


def compiled_once(stage: str) -> bytes:
    if stage not in REAL:
        REAL[stage] = compiled(MODELS["mlp"]).snapshot(stage).to_json().encode()
    return REAL[stage]


@MANY
@given(st.data())
def test_letters_changed_in_a_patch(data):
    before, after = data.draw(snapshots()), data.draw(snapshots())
    source = diff(before, after).patch.to_json()
    assert_patch_law(data.draw(mutated_text(source, before.to_json())), before)


@MANY
@given(st.data())
def test_values_changed_in_a_patch(data):
    before, after = data.draw(snapshots(most=6)), data.draw(snapshots(most=6))
    assert_patch_law(data.draw(mutated_json(diff(before, after).patch.to_json())), before)


GRAPH = '{"nodes":[],"schema":2,"title":""}'


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '{"a":' * 100_000,
        '{"schema":2,"title":"","nodes":[' + "{}," * 300_000 + "{}]}",
        '{"schema":' + "9" * 1_000_000 + "}",
        GRAPH.replace('""', '"' + "x" * 1_000_000 + '"'),
        GRAPH.replace('""', '"\\ud800"'),
        "NaN",
    ],
    ids=lambda text: text[:16],
)
def test_large_and_deep_snapshots(text):
    assert_snapshot_law(text)


@pytest.mark.parametrize(
    "steps",
    [
        '["keep",{"first":0,"count":1000000000}]',
        '["keep",{"first":0,"count":1e9}]',
        ",".join(['["keep",{"first":0,"count":3}]'] * 100_000),
        '["edit",{"position":0,"changed":[["name","a"],["name","b"]]}]',
    ],
)
def test_patches_that_ask_for_much_or_for_two_things(steps):
    three = GraphSnapshot(tuple(node(name, "relu") for name in "abc"))
    assert_patch_law(f'{{"schema":1,"title":"","renamed":[],"steps":[{steps}]}}', three)
