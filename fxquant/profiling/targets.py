"""Rules for sites: which targets of a recipe match these call sites, and as little else as a recipe can say.

A called module has its name. A function has only its op's name and the module in whose forward() it stands, so its rule
takes that module's own calls less the other ops there: all calls of this op at that place are meant together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fxquant.origin import site_of
from fxquant.plan import Decision, QuantPlan
from fxquant.profiling.evidence import Evidence
from fxquant.profiling.timing import Group
from fxquant.recipe import Activation, RecipeRule, Weight

_JOINS = frozenset({"add", "mul", "matmul", "cat", "iadd", "imul", "sub", "stack"})


def rule_for(
    plan: QuantPlan,
    sites: Iterable[str],
    *,
    scheme: str = "",
    weight: Weight | None = None,
    activation: Activation | None = None,
) -> RecipeRule:
    """One rule that asks this for these sites."""
    wanted = [plan[site] for site in dict.fromkeys(sites)]
    targets: list[str] = []
    ignored: list[str] = []
    for decision in wanted:
        found, others = _target(decision, plan)
        targets.append(found)
        ignored += others
    kept = {decision.op for decision in wanted}
    return RecipeRule(
        tuple(dict.fromkeys(targets)),
        tuple(dict.fromkeys(op for op in ignored if op not in kept)),
        scheme,
        weight,
        activation,
    )


def matched(rule: RecipeRule, plan: QuantPlan) -> tuple[str, ...]:
    """The sites of the plan that a rule matches."""
    return tuple(
        decision.site
        for decision in plan
        if any(_matches(text, decision) for text in rule.targets)
        and not any(_matches(text, decision) for text in rule.ignore)
    )


def readers(evidence: Evidence, group: Group) -> list[str]:
    """Sites that compute with a group's value, through those that only pass it on."""
    found: dict[str, None] = {}
    waiting = [user for site in group.sites for user in evidence.nodes[site].users]
    while waiting:
        node = waiting.pop(0)
        site = site_of(node)
        if site not in evidence.groups or site in found or site in group.sites:
            continue
        found |= dict.fromkeys(evidence.groups[site].sites)
        if not evidence.weights.get(site) and getattr(node.target, "__name__", node.target) not in _JOINS:
            waiting += list(node.users)
    return list(found)


def _target(decision: Decision, plan: QuantPlan) -> tuple[str, list[str]]:
    if _is_module(decision):
        return decision.module_name, []
    alike = [other for other in plan if decision.op in (other.op, other.module_name)]
    if len(alike) == 1:
        return decision.op, []
    here = [other for other in plan if other.module_name == decision.module_name and other.op != decision.op]
    return f"re:{re.escape(decision.module_name)}$", list(dict.fromkeys(other.op for other in here))


def _is_module(decision: Decision) -> bool:
    return bool(decision.module_name) and decision.op[:1].isupper()


def _matches(text: str, decision: Decision) -> bool:
    if text == "*":
        return True
    if text.startswith("re:"):
        return re.match(text[3:], decision.module_name) is not None
    name = decision.module_name
    return text == decision.op or name == text or name.startswith(f"{text}.")
