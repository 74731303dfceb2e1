"""What a profile starts from, whatever form it has, and the same with rules put before its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fxquant.policy import Policy, read_policy
from fxquant.recipe import Recipe, RecipeRule, load
from fxquant.recipe_rules import recipe_rules
from fxquant.rules import RuleSet

TITLE = "the profile's recipe"


@dataclass(frozen=True, slots=True)
class Start:
    """`recipe` is None for a QConfigMapping: no recipe can say all that one does."""

    policy: Policy
    recipe: Recipe | None

    def changed(self, rules: Sequence[RecipeRule]) -> Recipe | Policy:
        """As `fxquant.compile` takes it: these rules first, then those it had."""
        if self.recipe is not None:
            return replace(self.recipe, rules=(*rules, *self.recipe.rules), title=TITLE) if rules else self.recipe
        before = recipe_rules(Recipe(tuple(rules), title=TITLE), self.policy.target)
        return replace(self.policy, rules=RuleSet((*before.rules, *self.policy.rules.rules)))


def start_of(given: Any, *, target: str) -> Start:
    """Of a preset's name, a recipe's path, a Recipe, a QConfigMapping or a Policy. FXQ101 to FXQ104, as `compile`."""
    policy = read_policy(given, target=target)
    match given:
        case Recipe():
            return Start(policy, given)
        case Path():
            return Start(policy, load(given))
        case str() if given.endswith(".toml"):
            return Start(policy, load(given))
        case str():
            return Start(policy, Recipe((RecipeRule(("*",), scheme=given),), title=policy.title))
    return Start(policy, None)
