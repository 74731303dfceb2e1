"""What `fxquant.profile` returns: the layers, what to change, and the recipe that was tried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxquant.errors import UsageError
from fxquant.profiling.advice import Advice
from fxquant.profiling.crossings import Crossing
from fxquant.profiling.layer import Layer
from fxquant.profiling.trials import Score
from fxquant.recipe import Recipe, dump


@dataclass(frozen=True, slots=True, repr=False)
class Profile:
    """Of one model by one policy. Iterates over its layers; `str()` is a table."""

    model_name: str
    policy: str  # what it starts from: "preset 'int8'"
    target: str
    objective: str  # 'sqnr' or 'latency'
    batches: int  # 0: only the weights are known
    rows: int  # samples in them
    layers: tuple[Layer, ...]
    advice: tuple[Advice, ...]  # the largest gain first, measured before expected
    crossings: tuple[Crossing, ...]  # float islands, the dearest first
    notes: tuple[str, ...]
    reason: str  # why `recipe()` is what it is
    output_sqnr_db: float | None = None
    float_seconds: float | None = None  # a call of the float graph on the first batch, as `start.seconds`
    start: Score | None = None  # the starting policy, measured
    best: Score | None = None  # the recipe, measured: it is `start` where nothing won
    conversion_seconds: float | None = None  # of all quantizes and dequantizes, node by node
    node_seconds: float | None = None  # of all nodes of the lowered graph, node by node
    outcome: Any = field(default=None, repr=False)  # the Recipe or Policy

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, name: str) -> Layer:
        """By site or module name (the first call of it)."""
        found = next((one for one in self.layers if name in (one.site, one.module)), None)
        if found is None:
            raise KeyError(name)
        return found

    def recipe(self) -> Recipe:
        """What `fxquant.compile` takes in place of the policy; `recipe_text()` is the same to be pasted into a file.

        It was compiled and is no worse than the start by the objective; else it is the start, and `reason` says why.
        FXQ142 where the start is a QConfigMapping: give `profile.outcome` to compile instead.
        """
        if not isinstance(self.outcome, Recipe):
            raise UsageError(
                "FXQ142",
                f"{self.policy} has no form as a recipe, so what was changed of it has none",
                hint="compile(model, profile.outcome), or profile a preset or a recipe; advice.rule_text has each rule",
            )
        return self.outcome

    def recipe_text(self) -> str:
        """The recipe as TOML, with the reason of each of its rules as comments. FXQ142 as `recipe()`."""
        recipe = self.recipe()
        whys = {one.recipe_rule: one for one in self.advice}
        told = [f"# {self.reason}"]
        told += [f"# {whys[rule].kind}: {whys[rule].why}" for rule in recipe.rules if rule in whys]
        return "\n".join((*(line.replace("\n", " ") for line in told), dump(recipe)))

    def __repr__(self) -> str:
        told = f"{len(self.layers)} layers, {len(self.advice)} pieces of advice"
        return f"Profile({self.model_name}, {self.policy}, target={self.target!r}, {told})"

    def __str__(self) -> str:
        from fxquant.profiling.telling import text

        return text(self)

    def _repr_html_(self) -> str:
        from fxquant.profiling.telling import html

        return html(self)

    def to_json(self) -> str:
        """All of it as one JSON object; what is not finite is a string ('inf', 'nan')."""
        from fxquant.profiling.exporting import as_json

        return as_json(self)

    def to_csv(self) -> str:
        """One line a layer, headed."""
        from fxquant.profiling.exporting import as_csv

        return as_csv(self)

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Small multiples of the layers' histograms with their percentiles, as .png, .svg or .pdf. Takes matplotlib."""
        from fxquant.profiling.plotting import plot

        return plot(self, path)
