"""The plan: plain data, call site → decision + why. Passes execute it; nothing decides twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from torch import fx

from fxquant.origin import origins


class Mode(StrEnum):
    """How a site is quantized."""

    STATIC = "static"  # weights and activations, ranges from calibration
    DYNAMIC = "dynamic"  # weights ahead, activations when they come
    WEIGHT_ONLY = "weight-only"  # weights only, computed in float
    FLOAT16 = "float16"  # weights kept as float16
    BFLOAT16 = "bfloat16"  # weights kept as bfloat16; computed in it where the CPU can
    FLOAT = "float32"  # left alone


HELD_MODES = frozenset({Mode.WEIGHT_ONLY, Mode.FLOAT16, Mode.BFLOAT16})  # narrow weights, computed with floats


@dataclass(frozen=True, slots=True)
class Decision:
    """What one call site shall get. `why` is never empty and names the rule."""

    site: str  # origin id
    module_name: str  # dotted name of the called module, or of the module whose forward() has the call
    op: str  # class name of the module, or name of the function or method
    mode: Mode
    qconfig: object | None  # the torch.ao QConfig; None for FLOAT
    requested: str  # what was asked, in words: 'static quint8 × qint8 per channel'
    why: str
    is_explicit: bool = False  # the rule named this very layer (by name or regex), not its type or everything


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """One decision for each call site, in graph order."""

    decisions: tuple[Decision, ...]
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
        """The decision for a node: that of its first origin that has one."""
        found = (self._by_site[origin] for origin in origins(node) if origin in self._by_site)
        return next(found, None)

    def mode_of(self, node: fx.Node) -> Mode:
        """The mode of a node; a node without a decision stays float."""
        decision = self.of(node)
        return Mode.FLOAT if decision is None else decision.mode
