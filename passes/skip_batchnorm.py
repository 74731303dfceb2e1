"""The pass skip-batchnorm: batch norms stay float32 where the user says so, or where they cannot be folded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxquant.errors import RecipeError, UnknownTargetError, did_you_mean
from fxquant.keep_float import is_kept_float, keep_float
from fxquant.ledger import Ledger
from fxquant.passes._batchnorm import CANNOT_FOLD, NAMED_BY_USER, batchnorm_of, why_not_foldable
from fxquant.passes._survey import Survey
from fxquant.pipeline import Pass
from fxquant.plan import Mode
from fxquant.program import Program, Stage

_REGEX = "re:"


@dataclass(frozen=True)
class SkipBatchnorm(Pass):
    """conv → bn  (bn is named, or cannot be folded)  ⇒  the same graph, with bn marked and written down as float32.

    `names` are dotted names of batch norms, exact or, after 're:', regular expressions that match from the start.
    Stands before fold-batchnorm, which folds all that this pass does not keep.
    """

    name: ClassVar[str] = "skip-batchnorm"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED, Stage.PLANNED})

    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = (self.names,) if isinstance(self.names, str) else tuple(self.names)
        object.__setattr__(self, "names", names)
        for name in names:
            _matcher(name)

    def run(self, program: Program, ledger: Ledger) -> Program:
        norms = [node for node in program.graph.nodes if batchnorm_of(program, node) is not None]
        called = {node: _names_of(node, ledger) for node in norms}
        _refuse_unmatched(self.names, called.values())
        survey = Survey(program)
        for node in norms:
            named = self._why_named(program, node, called[node])
            if named is not None:
                _keep(ledger, NAMED_BY_USER, node, named)
            elif not is_kept_float(node) and (reason := why_not_foldable(program, node, survey)) is not None:
                _keep(ledger, CANNOT_FOLD, node, f"cannot be folded: {reason}")
        return program

    def _why_named(self, program: Program, node: fx.Node, called: tuple[str, ...]) -> str | None:
        for name in self.names:
            if any(_matcher(name).match(candidate) for candidate in called):
                return f"skip-batchnorm names it ({name!r})"
        decision = None if program.plan is None else program.plan.of(node)
        if decision is not None and decision.is_explicit and decision.mode is Mode.FLOAT:
            return f"the plan names it: {decision.why}"
        return None


def _keep(ledger: Ledger, code: str, node: fx.Node, reason: str) -> None:
    keep_float(node, reason)
    ledger.decline(code, node, why=reason)


def _names_of(node: fx.Node, ledger: Ledger) -> tuple[str, ...]:
    """What a batch norm is called now, and what the user's model called it."""
    row = ledger.row_of(node)
    return tuple(dict.fromkeys((str(node.target), *([row.module] if row is not None else []))))


def _refuse_unmatched(names: tuple[str, ...], called: Iterable[tuple[str, ...]]) -> None:
    known = list(dict.fromkeys(candidate for candidates in called for candidate in candidates))
    for name in names:
        if not any(_matcher(name).match(candidate) for candidate in known):
            raise UnknownTargetError(
                "FXQ110",
                f"skip-batchnorm names {name!r}, which is no batch norm of this model",
                hint=did_you_mean(name.removeprefix(_REGEX), known) or "the model has no batch norm",
                module=name,
            )


def _matcher(name: str) -> re.Pattern[str]:
    """A pattern for an exact name, or for what stands after 're:'. FXQ101 when that does not parse."""
    if not name.startswith(_REGEX):
        return re.compile(re.escape(name) + r"\Z")
    try:
        return re.compile(name.removeprefix(_REGEX))
    except re.error as error:
        raise RecipeError("FXQ101", f"{name!r} is not a regular expression: {error}") from error
