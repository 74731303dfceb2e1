"""One atheris target per format: seeds from real dumps, and a function of bytes that raises only where something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fxquant.errors import FxQuantError
from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.recipe import Recipe, RecipeRule, Weight, dump, parse
from support.guard import guarded, signature_of_builtin


@dataclass(frozen=True, slots=True)
class Target:
    """`one` reads bytes under the guard."""

    seeds: Callable[[], list[bytes]]
    one: Callable[[bytes], None]


def _recipes() -> list[bytes]:
    rules = RecipeRule(("Linear", "re:layer[12]"), scheme="int8"), RecipeRule(("*",), ("head",), weight=Weight())
    return [dump(Recipe(rules, ("tail",))).encode(), dump(Recipe()).encode()]


def _one_recipe(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        found = guarded(lambda: parse(text))
    except FxQuantError:
        return
    assert parse(dump(found)) == found


def _snapshots() -> list[bytes]:
    from support.compiling import compiled
    from support.models import MODELS

    model = compiled(MODELS["mlp"])
    return [model.snapshot(stage).to_json().encode() for stage in ("traced", "lowered")]


def _one_snapshot(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        found = guarded(lambda: GraphSnapshot.from_json(text))
    except FxQuantError:
        return
    assert GraphSnapshot.from_json(found.to_json()) == found


def _artifacts() -> list[bytes]:
    from support.saved import saved

    return [saved("mlp"), saved("counts_calls")]


def _one_artifact(data: bytes) -> None:
    """As it is, and under a seal that is right: what gets past the checksum is looked at too."""
    from fxquant.artifact.inspecting import check
    from support.saved import resealed

    for given in (data, resealed(data)):
        try:
            guarded(lambda given=given: check(given), allow=signature_of_builtin)
        except FxQuantError:
            continue


TARGETS = {
    "recipes": Target(_recipes, _one_recipe),
    "snapshots": Target(_snapshots, _one_snapshot),
    "artifacts": Target(_artifacts, _one_artifact),
}
