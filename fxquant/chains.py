"""Fallback chains: names of presets, tried in order for each site, "float" last where float is allowed in the end."""

from __future__ import annotations

from collections.abc import Sequence

from fxquant.errors import QConfigError, did_you_mean
from fxquant.qconfigs import PRESETS

END = "float"  # the link that asks for nothing
HYBRID = "hybrid"  # the preset that is a chain
LINKS = (*(name for name in PRESETS if name != HYBRID), END)
ARROW = " → "

_ORDER = ("int8", "int8-dynamic", "int8-weight-only", "float16", "bfloat16", END)
USUAL = tuple(link for link in _ORDER if link in LINKS)  # what the preset 'hybrid' tries


def check_chain(names: Sequence[object], owner: str) -> tuple[str, ...]:
    """The links of a chain. FXQ125, naming `owner` (where the chain stands), for one that means nothing."""
    if not names:
        raise _wrong(f"{owner}: the chain is empty", f'name its links in order: {list(USUAL)}, or say "{HYBRID}"')
    links = tuple(link for link in names if isinstance(link, str))
    strange = next((name for name in names if name not in LINKS), None)
    if strange is not None or len(links) < len(names):
        hint = did_you_mean(strange, LINKS) if isinstance(strange, str) else f"one of {', '.join(LINKS)}"
        what = "is a chain itself" if strange == HYBRID else "is no preset"
        raise _wrong(f"{owner}: link {_shown(strange)} of chain {told(names)} {what}", hint)
    twice = next((link for index, link in enumerate(links) if link in links[:index]), None)
    if twice is not None:
        raise _wrong(
            f"{owner}: chain {told(links)} has '{twice}' twice", "a link that failed once fails again: name it once"
        )
    if END in links[:-1]:
        after = links[links.index(END) + 1]
        raise _wrong(
            f"{owner}: chain {told(links)} goes on after '{END}'",
            f"nothing fails to stay float: '{after}' is never tried",
        )
    return links


def told(links: Sequence[object]) -> str:
    """'int8 → int8-dynamic → float'."""
    return ARROW.join(str(link)[:40] for link in links[:12])


def _shown(value: object) -> str:
    return repr(value)[:80]


def _wrong(message: str, hint: str) -> QConfigError:
    return QConfigError("FXQ125", message, hint=hint)
