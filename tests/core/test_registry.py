"""Passes by name: built in, brought by another package, unknown, and two of one name."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from fxquant import registry
from fxquant.errors import RecipeError, UsageError
from fxquant.passes.drop_identity import DropIdentity

THEIRS = "fxquant.passes.drop_identity:DropIdentity"


@pytest.fixture
def installed(monkeypatch):
    def install(*points):
        found = [EntryPoint(name, value, registry.GROUP) for name, value in points]
        monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.GROUP else [])

    return install


def test_a_pass_of_another_package_is_found_after_the_built_in_ones(installed):
    installed(("theirs", THEIRS), ("another", THEIRS))
    assert registry.names() == (*registry.BUILT_IN, "another", "theirs")
    assert registry.find("theirs") is DropIdentity and isinstance(registry.make("theirs"), DropIdentity)


def test_a_package_that_is_installed_twice_brings_its_pass_once(installed):
    installed(("theirs", THEIRS), ("theirs", THEIRS))
    assert registry.names().count("theirs") == 1


@pytest.mark.parametrize("points", [[("fuse", THEIRS)], [("theirs", "a:A"), ("theirs", "b:B")]])
def test_two_passes_of_one_name_are_refused_and_both_are_named(installed, points):
    installed(*points)
    with pytest.raises(UsageError) as caught:
        registry.names()
    owners = [registry.BUILT_IN["fuse"], THEIRS] if len(points) == 1 else ["a:A", "b:B"]
    assert caught.value.code == "FXQ105" and all(owner in caught.value.message for owner in owners)
    assert "rename one of them" in caught.value.hint


def test_a_name_that_is_none_gets_the_nearest(installed):
    installed(("theirs", THEIRS))
    with pytest.raises(UsageError) as caught:
        registry.find("thiers")
    assert caught.value.code == "FXQ105" and "'theirs'" in caught.value.hint


def test_an_option_that_a_pass_does_not_have_is_told():
    with pytest.raises(RecipeError) as caught:
        registry.make("fuse", depth=3)
    assert caught.value.code == "FXQ106" and "pass 'fuse'" in caught.value.message and "depth" in caught.value.message
