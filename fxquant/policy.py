"""The policy: a QConfigMapping, a preset's name or a recipe, read into one list of rules that decides for each site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxquant import torch_ao
from fxquant.activation_sites import SiteRule
from fxquant.chains import check_chain, told
from fxquant.errors import QConfigError, UnknownTargetError, did_you_mean, nearest
from fxquant.ledger import FLOAT
from fxquant.linking import chained
from fxquant.mappings import TITLE, mapping_rules
from fxquant.plan import Decision, Mode
from fxquant.presets import chain_rules, preset_rules
from fxquant.qconfigs import ATTENTION, PRESETS, SERVED, WEIGHTED, Ask, check_shape, refusal
from fxquant.recipe import Recipe, dump, load
from fxquant.recipe_rules import activation_rules, recipe_rules
from fxquant.rules import Key, Match, Rule, RuleSet, Site, Target


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules in order of precedence, for one target. Make one with `read_policy`."""

    title: str  # "preset 'int8'", "the QConfigMapping", "recipe 'x.toml'"
    target: str
    rules: RuleSet
    unmatched_is_error: bool = True
    declined_is_error: bool = False
    text: str = ""  # of the recipe that it was read from
    activations: tuple[SiteRule, ...] = ()  # for single inputs and outputs of layers

    def decide(self, site: Site) -> Decision:
        """The one decision for a site. FXQ102 when a qconfig does not fit the layer's weight."""
        if not site.is_tensor_op:
            return _decision(site, Mode.FLOAT, "not a tensor operation")
        outer = self.rules.match(site)
        if outer is None:
            return _decision(site, Mode.FLOAT, f"no rule of {self.title} matches '{site.op}'")
        found, label = _innermost(outer, site)
        if found is not None and found.rule.chain:
            return self._chained(site, found.rule, label, is_explicit=outer.is_explicit)
        if found is None or found.rule.ask is None or found.rule.ask.mode is Mode.FLOAT:
            return _decision(site, Mode.FLOAT, f"kept float by {label}", is_explicit=outer.is_explicit)
        return self._ask(site, found, found.rule.ask, label, is_explicit=outer.is_explicit)

    def _ask(self, site: Site, found: Match, ask: Ask, label: str, *, is_explicit: bool) -> Decision:
        is_meant = found.target.text in (site.module_name, site.op)  # not by a regex, a parent's name or a catch-all
        if site.op in WEIGHTED and site.weight_shape is not None:
            check_shape(ask, site.weight_shape, site.module_name, label, is_meant=is_meant)
        served = SERVED.get(ask.mode)
        if served is not None and site.op not in WEIGHTED | ATTENTION and not is_meant:
            why = f"{ask.mode} quantization is for layers with weights, '{site.op}' is none ({label})"
            return _decision(site, Mode.FLOAT, why)
        words = ask.words(has_weight=site.op in WEIGHTED)
        refused = refusal(ask, site.op, self.target)
        if refused is not None:
            why = f"kept float because {refused} ({label})"
            return _decision(site, Mode.FLOAT, why, requested=words, is_explicit=is_explicit)
        return Decision(
            site.id, site.module_name, site.op, ask.mode, found.rule.qconfig, words, label, is_explicit=is_explicit
        )

    def _chained(self, site: Site, rule: Rule, label: str, *, is_explicit: bool) -> Decision:
        """Each link decides as the preset that it is; of its decisions the first counts, the others are fallbacks."""
        found = [
            (link.name, Policy(f"preset '{link.name}'", self.target, link.rules or RuleSet(())).decide(site))
            for link in rule.chain
        ]
        return chained(found, label, is_explicit=is_explicit)

    def explain(self, site: Site) -> str:
        """One line: what this site gets, and which rule says so."""
        decision = self.decide(site)
        name = f"'{site.module_name}' ({site.op})" if site.module_name else f"'{site.op}'"
        return f"{name}: {decision.requested if decision.mode is not Mode.FLOAT else FLOAT}, by {decision.why}"

    def check_all_matched(self, sites: Sequence[Site]) -> tuple[str, ...]:
        """FXQ110 that lists each rule which matches nothing, with the nearest names. Returns notices."""
        present = {key for site in sites for key in site.keys}
        names = tuple(dict.fromkeys(site.module_name for site in sites))
        missing: list[tuple[str, str]] = []
        notices, idle = [], []
        for rule in (*self.rules, *(site.rule for site in self.activations)):
            for target in (*rule.targets, *rule.ignore):
                if target.regex is not None and names and all(target.regex.matches(name) for name in names):
                    notices.append(f"{rule.label}: regex '{target.regex.text}' matches every call")
                if rule.demand == "nothing" or _is_present(target, present, names):
                    continue
                if rule.demand == "error":
                    missing.append((target.text, rule.label))
                else:
                    idle.append(target.text)
        if idle:
            notices.append(f"object types of {self.title} that the model does not call: {', '.join(idle)}")
        if missing and self.unmatched_is_error:
            raise _unknown(missing, sites)
        return (*notices, *(f"'{text}' ({label}) matches nothing" for text, label in missing))


def _decision(site: Site, mode: Mode, why: str, *, requested: str = FLOAT, is_explicit: bool = False) -> Decision:
    return Decision(site.id, site.module_name, site.op, mode, None, requested, why, is_explicit=is_explicit)


def _innermost(outer: Match, site: Site) -> tuple[Match | None, str]:
    """The match that has the qconfig: a rule with a scheme hands the site on to the scheme's own rules."""
    if outer.rule.scheme is None:
        return outer, outer.rule.label
    inner = outer.rule.scheme.match(site)
    told = "whose scheme leaves it out" if inner is None else f"by {inner.rule.label}"
    return inner, f"{outer.rule.label}, {told}"


def _is_present(target: Target, present: set[Key], names: Iterable[str]) -> bool:
    if target.regex is not None:
        return any(target.regex.matches(name) for name in names)
    return any(key in present for key in target.keys)


def _unknown(missing: list[tuple[str, str]], sites: Sequence[Site]) -> UnknownTargetError:
    known = tuple(dict.fromkeys(name for site in sites for name in (*site.prefixes, site.op)))
    if len(missing) == 1:
        text, label = missing[0]
        return UnknownTargetError(
            "FXQ110", f"'{text}' ({label}) matches nothing in the model", hint=did_you_mean(text, known)
        )
    many = "; ".join(
        f"'{text}' ({label}), nearest: {', '.join(nearest(text, known)) or '-'}" for text, label in missing
    )
    hint = "correct the names, or say [strict] unmatched = false in a recipe"
    return UnknownTargetError("FXQ110", f"{len(missing)} targets match nothing in the model: {many}", hint=hint)


def read_policy(given: Any, *, target: str) -> Policy:
    """Read a QConfigMapping (or its dict form), a preset's name, a chain of them, a recipe's path, a Recipe, a Policy.

    FXQ101–FXQ104 and FXQ125 for what means nothing, FXQ502 for a preset on an engine that is none.
    """
    match given:
        case Policy():
            return _same_target(given, target)
        case Recipe():
            return _of_recipe(given, target)
        case Path():
            return _of_recipe(load(given), target)
        case str() if given.endswith(".toml"):
            return _of_recipe(load(given), target)
        case str():
            return Policy(f"preset '{given}'", target, preset_rules(given, target), unmatched_is_error=False)
        case list() | tuple() if not hasattr(given, "activation"):
            links = check_chain(given, "the policy")
            rules = chain_rules(links, f"chain {told(links)}", target)
            return Policy(f"chain {told(links)}", target, rules, unmatched_is_error=False)
        case dict():
            return Policy(TITLE, target, mapping_rules(given, target))
        case _ if torch_ao.is_mapping(given):
            return Policy(TITLE, target, mapping_rules(given, target))
    is_qconfig = isinstance(given, tuple) and hasattr(given, "activation")
    raise QConfigError(
        "FXQ102",
        f"{'a single QConfig' if is_qconfig else repr(given)[:80]} (a {type(given).__name__}) is no policy",
        hint="wrap it: QConfigMapping().set_global(qconfig)"
        if is_qconfig
        else f"give a QConfigMapping, a path to a .toml recipe, or a preset: {', '.join(PRESETS)}",
    )


def _of_recipe(recipe: Recipe, target: str) -> Policy:
    rules, strict = recipe_rules(recipe, target), recipe.strict
    sites = activation_rules(recipe)
    return Policy(recipe.title, target, rules, strict.unmatched, strict.declined, dump(recipe), sites)


def _same_target(policy: Policy, target: str) -> Policy:
    if policy.target == target:
        return policy
    raise QConfigError(
        "FXQ102",
        f"the policy was read for target '{policy.target}', not for '{target}'",
        hint=f"read_policy(..., target='{target}')",
    )
