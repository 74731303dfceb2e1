"""The decisions of a fallback chain for one site: the first that a link gives, with the others behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fxquant.chains import END, told
from fxquant.ledger import FLOAT
from fxquant.plan import Decision, Mode, in_words


def chained(found: Sequence[tuple[str, Decision]], label: str, *, is_explicit: bool) -> Decision:
    """One decision of what each link says (name → its preset's decision), with a fallback for each later one that asks.

    Where no link asks anything the site is float, like one that no rule names; where all that was asked is refused it
    is declined, unless the chain ends in "float".
    """
    steps: list[Decision] = []
    failed: list[tuple[str, str]] = []
    for name, decision in found:
        if name == END:
            why = f"kept float at the end of the chain ({label})"
        elif decision.mode is Mode.FLOAT:
            failed.append((name, _reason(decision)))
            continue
        elif any(step.mode is decision.mode and step.qconfig is decision.qconfig for step in steps):
            failed.append((name, "asks the same again"))
            continue
        else:
            why = f"{name} by {decision.why} ({label})"
        why = f"{in_words(failed)}{why}"
        steps.append(replace(decision, why=why, is_explicit=is_explicit, link=name, tried=tuple(failed)))
        failed.clear()
    is_asked = any(decision.requested != FLOAT for _, decision in found)
    if not is_asked:
        first = found[0][1]
        return replace(first, why=f"no link of the chain asks for '{first.op}' ({label})", is_explicit=is_explicit)
    if not steps:
        asked = told([name for name, _ in found])
        why = f"kept float because no link serves it: {in_words(failed).rstrip('; ')} ({label})"
        return replace(found[0][1], requested=asked, why=why, is_explicit=is_explicit)
    return replace(steps[0], fallbacks=tuple(steps[1:]))


def _reason(decision: Decision) -> str:
    if decision.requested == FLOAT:
        return f"asks nothing for '{decision.op}'"
    return decision.why.removeprefix("kept float because ")
