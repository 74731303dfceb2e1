"""The plan: plain data, call site → decision + why. Passes execute it; nothing decides twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from torch import fx

from fxquant.origin import origins, part_key

if TYPE_CHECKING:
    from fxquant.activation_sites import SiteDecision


class Mode(StrEnum):
    """How a site is quantized."""

    STATIC = "static"  # weights and activations, ranges from calibration
    DYNAMIC = "dynamic"  # weights ahead, activations when they come
    WEIGHT_ONLY = "weight-only"  # weights only, computed in float
    FLOAT16 = "float16"  # weights kept as float16
    BFLOAT16 = "bfloat16"  # weights kept as bfloat16; computed in it where the CPU can
    FLOAT = "float32"  # left alone


HELD_MODES = frozenset({Mode.WEIGHT_ONLY, Mode.FLOAT16, Mode.BFLOAT16})  # narrow weights, computed with floats


def in_words(tried: Iterable[tuple[str, str]]) -> str:
    """'int8: why it failed; int8-dynamic, float16: why they failed; '."""
    links: list[tuple[list[str], str]] = []
    for link, reason in tried:
        if links and links[-1][1] == reason:
            links[-1][0].append(link)
        else:
            links.append(([link], reason))
    return "".join(f"{', '.join(names)}: {reason}; " for names, reason in links)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one call site shall get. `why` is never empty and names the rule."""

    site: str  # origin id; of a part of a site that was split before it was planned, `origin.part_key`
    module_name: str  # dotted name of the called module, or of the module whose forward() has the call
    op: str  # class name of the module, or name of the function or method
    mode: Mode
    qconfig: object | None  # the torch.ao QConfig; None for FLOAT
    requested: str  # what was asked, in words: 'static quint8 × qint8 per channel'
    why: str
    is_explicit: bool = False  # the rule named this very layer (by name or regex), not its type or everything
    link: str = ""  # of a fallback chain, which this decision is
    tried: tuple[tuple[str, str], ...] = ()  # links before it, each with the reason why it failed
    fallbacks: tuple[Decision, ...] = ()  # the links after it, where this one turns out not to run

    def fall(self, because: str) -> Decision:
        """The next link of its chain; there must be one."""
        after, *rest = self.fallbacks
        tried = (*self.tried, (self.link, because), *after.tried)
        own = after.why.removeprefix(after.path)
        return replace(after, why=f"{in_words(tried)}{own}", tried=tried, fallbacks=tuple(rest))

    @property
    def path(self) -> str:
        """What was tried before it, in words, to be followed by more; '' where nothing was."""
        return in_words(self.tried)


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """One decision for each call site, in graph order."""

    decisions: tuple[Decision, ...]
    activations: tuple[SiteDecision, ...] = ()  # what single inputs and outputs get, whatever the decisions say
    _by_site: dict[str, Decision] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_site", {decision.site: decision for decision in self.decisions})

    def __iter__(self) -> Iterator[Decision]:
        return iter(self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)

    def __getitem__(self, site: str) -> Decision:
        return self._by_site[site]

    def get(self, site: str) -> Decision | None:
        """The decision for an origin id."""
        return self._by_site.get(site)

    def of(self, node: fx.Node) -> Decision | None:
        """The decision for a node: that of its first origin that has one, for this part of it where there is one."""
        keys = (key for origin in origins(node) for key in (part_key(node, origin), origin))
        return next((self._by_site[key] for key in keys if key in self._by_site), None)

    def may_fall(self, node: fx.Node) -> bool:
        """Whether a chain has another decision for this node, should the present one fail."""
        decision = self.of(node)
        return decision is not None and bool(decision.fallbacks)

    def asks_nothing(self, node: fx.Node) -> bool:
        """Is this node float because no rule wants anything else of it, and not for want of a kernel?"""
        decision = self.of(node)
        return decision is not None and decision.mode is Mode.FLOAT and decision.requested == Mode.FLOAT

    def with_decisions(self, changed: Mapping[str, Decision]) -> QuantPlan:
        """The plan with other decisions for some sites."""
        return replace(self, decisions=tuple(changed.get(decision.site, decision) for decision in self.decisions))

    def mode_of(self, node: fx.Node) -> Mode:
        """The mode of a node; a node without a decision stays float."""
        decision = self.of(node)
        return Mode.FLOAT if decision is None else decision.mode
