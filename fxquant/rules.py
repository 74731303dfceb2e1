"""What rules look at (a call site and its keys), and rules in order: the first that matches decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from fxquant.qconfigs import Ask
from fxquant.regexes import NameRegex

Key = tuple[str, object]
Demand = Literal["error", "notice", "nothing"]

EVERYTHING: Key = ("all", None)
_EXPLICIT = ("name", "order")


@dataclass(frozen=True, slots=True)
class Site:
    """One call of the traced graph, as rules see it."""

    id: str  # origin id
    module_name: str  # dotted name of the called module, or of the module whose forward() has the call
    op: str  # class name of the module, or name of the function or method
    object_type: object  # the module's class, the function, or the method's name
    around: tuple[type, ...] = ()  # classes of the modules in whose forward() the call stands, outermost first
    order: tuple[str, int] | None = None  # the module in which calls of this object type are counted, and the count
    weight_shape: tuple[int, ...] | None = None
    is_module: bool = False
    is_tensor_op: bool = True

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The module's name and those of its parents: 'a.b', 'a'."""
        parts = self.module_name.split(".") if self.module_name else []
        return tuple(".".join(parts[:end]) for end in range(len(parts), 0, -1))

    @property
    def keys(self) -> tuple[Key, ...]:
        """All that an exact rule can match here.

        As in torch.ao, a function or method answers also to the class of the module that calls it; a module does not.
        """
        found: list[Key] = [("name", prefix) for prefix in self.prefixes]
        found.append(("type", self.object_type))
        if not self.is_module and self.around:
            found.append(("type", self.around[-1]))
        if self.order is not None:
            parent, index = self.order
            found.append(("order", (parent, self.object_type, index)))
        found.extend(("op", name) for name in dict.fromkeys((self.op, *(kind.__name__ for kind in self.around))))
        return (*found, EVERYTHING)


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that a rule is for: any of these keys, or a regex on the dotted name."""

    text: str
    keys: tuple[Key, ...] = ()
    regex: NameRegex | None = None

    @property
    def is_explicit(self) -> bool:
        """It singles out layers by their name."""
        return self.regex is not None or any(kind in _EXPLICIT for kind, _ in self.keys)


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a fallback chain: a preset's name and rules; no rules is float."""

    name: str
    rules: RuleSet | None


@dataclass(frozen=True, slots=True)
class Rule:
    """For these targets, less those: this qconfig, or what `scheme` says, or the first of `chain` (none: float)."""

    label: str  # how *why* names it
    targets: tuple[Target, ...]
    qconfig: object | None = None
    ask: Ask | None = None  # what the qconfig asks
    ignore: tuple[Target, ...] = ()
    scheme: RuleSet | None = None
    chain: tuple[Link, ...] = ()
    demand: Demand = "nothing"  # what it is to match nothing


@dataclass(frozen=True, slots=True)
class Match:
    """The rule that decides for a site, and by which of its targets."""

    rule: Rule
    target: Target
    is_explicit: bool


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in order of precedence. Exact keys are looked up, so the number of rules costs nothing per site."""

    rules: tuple[Rule, ...]
    _exact: dict[Key, list[tuple[int, Target]]] = field(init=False, repr=False, compare=False)
    _by_name: dict[str, list[tuple[int, Target]]] = field(init=False, repr=False, compare=False)  # regex hits, kept

    def __post_init__(self) -> None:
        exact: dict[Key, list[tuple[int, Target]]] = {}
        for index, rule in enumerate(self.rules):
            for target in rule.targets:
                for key in target.keys:
                    exact.setdefault(key, []).append((index, target))
        object.__setattr__(self, "_exact", exact)
        object.__setattr__(self, "_by_name", {})

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def match(self, site: Site) -> Match | None:
        """The first rule that matches this site and does not ignore it."""
        hits = [(index, target, key[0] in _EXPLICIT) for key in site.keys for index, target in self._exact.get(key, ())]
        hits += [(index, target, True) for index, target in self._regex_hits(site.module_name)]
        for index, target, is_explicit in sorted(hits, key=lambda hit: hit[0]):
            rule = self.rules[index]
            if not any(matches(ignored, site) for ignored in rule.ignore):
                return Match(rule, target, is_explicit)
        return None

    def _regex_hits(self, name: str) -> list[tuple[int, Target]]:
        if name not in self._by_name:
            self._by_name[name] = [
                (index, target)
                for index, rule in enumerate(self.rules)
                for target in rule.targets
                if target.regex is not None and target.regex.matches(name)
            ]
        return self._by_name[name]


def matches(target: Target, site: Site) -> bool:
    """Does this one target match the site?"""
    if target.regex is not None:
        return target.regex.matches(site.module_name)
    return any(key in target.keys for key in site.keys)
