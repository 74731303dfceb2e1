"""Rules for single activation sites: the input or the output of some layers stays float, or is quantized otherwise.

In a recipe:  [[activation]]  targets = ["features.0"]  site = "output"  keep = "float"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fxquant.errors import QConfigError, did_you_mean
from fxquant.rules import Rule, Site, matches

SITES = ("output", "input")
OBSERVERS = ("histogram", "minmax", "moving-average", "mse")
DTYPES = ("uint8", "int8")
_GIVEN = ("num_bits", "observer", "dtype")


@dataclass(frozen=True, slots=True)
class ActivationRule:
    """What a recipe says of some activation sites: `keep = "float"`, or what to quantize them with.

    What is not given (0 bits, '') stays as the layer's own rule has it.
    """

    targets: tuple[str, ...]
    site: str = field(default="output", metadata={"one_of": SITES})
    keep: str = field(default="", metadata={"one_of": ("float",)})
    num_bits: int = 0
    observer: str = field(default="", metadata={"one_of": OBSERVERS})
    dtype: str = field(default="", metadata={"one_of": DTYPES})
    ignore: tuple[str, ...] = ()

    @property
    def keeps_float(self) -> bool:
        """Nothing is quantized at its sites."""
        return self.keep == "float"


def check_activation(rule: ActivationRule, owner: str) -> None:
    """FXQ126, naming `owner` (where the rule stands), for one that means nothing."""
    for key, known in (
        ("site", SITES),
        ("keep", ("", "float")),
        ("observer", ("", *OBSERVERS)),
        ("dtype", ("", *DTYPES)),
    ):
        value = getattr(rule, key)
        if value not in known:
            wanted = [name for name in known if name]
            hint = did_you_mean(value, wanted) if isinstance(value, str) else ""
            raise _wrong(f"{owner}: {key} is {value!r:.60}, expected {' or '.join(wanted)}", hint)
    bits = rule.num_bits
    if isinstance(bits, bool) or bits not in (0, *range(2, 9)):
        raise _wrong(f"{owner}: num_bits is {bits!r:.60}, expected a whole number from 2 to 8", "8 is what engines run")
    given = [key for key in _GIVEN if getattr(rule, key)]
    if rule.keep and given:
        raise _wrong(
            f"{owner}: keep = 'float' and {given[0]} exclude each other", "a float value has no codes: drop one"
        )
    if not rule.keep and not given:
        raise _wrong(f"{owner}: says nothing of its sites", 'say keep = "float", or num_bits, observer or dtype')


def _wrong(message: str, hint: str) -> QConfigError:
    return QConfigError("FXQ126", message, hint=hint)


@dataclass(frozen=True, slots=True)
class SiteRule:
    """An activation rule with its targets read."""

    said: ActivationRule
    rule: Rule  # its label and targets


@dataclass(frozen=True, slots=True)
class SiteDecision:
    """What one activation site shall get."""

    site: str  # origin id of the call
    said: ActivationRule
    why: str  # 'activation rule 1 of recipe ...'


def decide_sites(rules: Sequence[SiteRule], sites: Sequence[Site]) -> tuple[SiteDecision, ...]:
    """The first rule that matches decides, for the input and for the output of each call."""
    found: dict[tuple[str, str], SiteDecision] = {}
    for rule in rules:
        for site in sites:
            is_meant = site.is_tensor_op and any(matches(target, site) for target in rule.rule.targets)
            if is_meant and not any(matches(target, site) for target in rule.rule.ignore):
                found.setdefault((site.id, rule.said.site), SiteDecision(site.id, rule.said, rule.rule.label))
    return tuple(found.values())


def code_range(dtype: str, num_bits: int) -> tuple[int, int]:
    """Smallest and largest code of a type of so many bits."""
    half = 1 << num_bits - 1
    return (-half, half - 1) if dtype == "qint8" else (0, 2 * half - 1)
