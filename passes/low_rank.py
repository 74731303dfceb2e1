"""low-rank: a layer becomes two with a narrow seam between them, where that saves multiplications.

fc (64 → 128)     ⇒  fc.0 (64 → r) → fc.1 (r → 128)
conv 3×3, c → o   ⇒  conv.0 3×3, c → r → conv.1 1×1, r → o        method="weight"
conv 3×3, c → o   ⇒  conv.0 3×1, c → r → conv.1 1×3, r → o        method="spatial"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from fxquant.errors import UsageError
from fxquant.ledger import Ledger
from fxquant.origin import as_part, carry, part_of, site_of
from fxquant.passes._chosen_layers import Chooser, Layer, check_choosers, chosen, layers_of
from fxquant.passes._factorable import Candidate, candidate, has_shapes, positions_of, why_not
from fxquant.passes._factors import pair
from fxquant.passes._placing import replace_at
from fxquant.passes._rank_choice import rank_for_energy, ranks_for_budget
from fxquant.passes._survey import Survey
from fxquant.passes._telling import Said, say
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage

CODE = "FXQ413"
METHODS, COSTS = ("weight", "spatial"), ("macs", "parameters")
_STACK = "nn_module_stack"  # classes of the modules around a call, by which rules go


@dataclass(frozen=True)
class LowRank(Pass):
    """fc ⇒ fc.0 → fc.1   Linear and convolution layers as two of a lower rank, where that saves multiplications.

    Exactly one of rank, energy and budget.

    Args:
        rank: of every layer that it is for. FXQ134 where a layer's maximum is lower.
        energy: share of each layer's squared singular values to keep, above 0 and up to 1: its lowest such rank.
        budget: share of the cost of all layers it is for that may remain, above 0 and below 1; those that cannot be
            factorized count too. See `_rank_choice` for which layers pay for it.
        cost: of the budget: 'macs' (needs example_inputs) or 'parameters' (of weights).
        method: 'weight' is a k×k convolution and a 1×1; 'spatial' a k×1 and a 1×k, where the kernel has both sides.
        targets: names, 're:' regexes and classes (or their names) of the layers it is for; none: all.
        ignore: likewise, those to leave as they are.

    Raises:
        UsageError: FXQ134 for options that mean nothing, and for a budget that rank 1 everywhere does not meet.
        UnknownTargetError: FXQ110 for a target that the model does not have.
    """

    rank: int | None = None
    energy: float | None = None
    budget: float | None = None
    cost: str = "macs"
    method: str = "weight"
    targets: Sequence[Chooser] = ()
    ignore: Sequence[Chooser] = ()

    name: ClassVar[str] = "low-rank"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED})

    def __post_init__(self) -> None:
        check_choosers(self.name, targets=self.targets, ignore=self.ignore)
        given = {"rank": self.rank, "energy": self.energy, "budget": self.budget}
        named = {name: value for name, value in given.items() if value is not None}
        if len(named) != 1:
            told = " and ".join(f"{name}={value!r}" for name, value in (named or given).items())
            raise _meaningless(told, "give one of rank=8, energy=0.95 and budget=0.5")
        _check_numbers(self.rank, self.energy, self.budget)
        for name, value, known in (("cost", self.cost, COSTS), ("method", self.method, METHODS)):
            if value not in known:
                raise _meaningless(f"{name}={value!r}", f"{name} is {known[0]!r} or {known[1]!r}")

    def run(self, program: Program, ledger: Ledger) -> Program:
        layers = chosen(layers_of(program), self.targets, self.ignore, self.name)
        survey, said = Survey(program), list[Said]()
        found, others = list[Candidate](), list[Layer]()
        for layer in layers:
            refused = why_not(layer, program, survey, is_meant=layer.is_asked_for(self.targets))
            if refused is None:
                found.append(candidate(layer, self.method))
            else:
                others.append(layer)
                said += _declined(layer, *refused)
        pairs: dict[str, list[tuple[Candidate, int]]] = {}  # by site
        for each, rank in zip(found, self._ranks(found, others), strict=True):
            reason = _why_not_rank(each, rank)
            if reason is not None:
                said += _declined(each.layer, reason)
            elif rank is not None:
                pairs.setdefault(site_of(each.layer.calls[0]), []).append((each, rank))
        for together in pairs.values():
            summary = _summary(together)
            for each, rank in together:
                said += _split(program, each, rank, summary)
        say(ledger, said)
        return program

    def _ranks(self, found: Sequence[Candidate], others: Sequence[Layer]) -> list[int | None]:
        if self.rank is not None:
            _check_maximum(found, self.rank)
            return [self.rank] * len(found)
        if self.energy is not None:
            return [rank_for_energy(each.macs, self.energy) for each in found]
        assert self.budget is not None
        return self._ranks_for_budget(found, others, self.budget)

    def _ranks_for_budget(self, found: Sequence[Candidate], others: Sequence[Layer], budget: float) -> list[int | None]:
        if self.cost == "macs" and not has_shapes(found):
            raise _meaningless(
                f"budget={budget!r} of MACs, but how often each layer is computed is not known",
                "give example_inputs=, or cost='parameters'",
            )
        choices = [each.macs if self.cost == "macs" else each.parameters for each in found]
        fixed = sum(_cost_of_other(layer, self.cost) for layer in others)
        whole = fixed + sum(layer.whole for layer in choices)
        ranks = ranks_for_budget(choices, budget * whole - fixed)
        if ranks is None:
            least = fixed + sum(min(layer.whole, layer.per_rank) for layer in choices)
            raise _meaningless(
                f"budget={budget!r}, but {least / whole:.3f} of the {self.cost} remain at rank 1 everywhere",
                "give a larger budget, or fewer layers to ignore",
            )
        return ranks


def _meaningless(given: str, hint: str, layer: str = "") -> UsageError:
    return UsageError("FXQ134", f"low-rank got {given}", hint=hint, module=layer or None)


def _check_numbers(rank: object, energy: object, budget: object) -> None:
    if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
        raise _meaningless(f"rank={rank!r}", "a rank is a whole number from 1 on")
    if energy is not None and not (_is_number(energy) and 0 < energy <= 1):  # type: ignore[operator]  # NaN is not
        raise _meaningless(f"energy={energy!r}", "the share of squared singular values to keep: above 0, up to 1")
    if budget is not None and not (_is_number(budget) and 0 < budget < 1):  # type: ignore[operator]
        raise _meaningless(f"budget={budget!r}", "the share of the cost that may remain: above 0, below 1")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_maximum(found: Sequence[Candidate], rank: int) -> None:
    above = [each for each in found if rank > each.macs.maximum]
    if above:
        told = ", ".join(f"'{each.layer.name}' has at most {each.macs.maximum}" for each in above[:4])
        more = f" (and {len(above) - 4} layers more)" if len(above) > 4 else ""
        name = above[0].layer.name
        raise _meaningless(f"rank={rank}: {told}{more}", f"a lower rank, or ignore=['{name}']", name)


def _cost_of_other(layer: Layer, cost: str) -> float:
    """Of a layer that stays as it is and has a weight like those that are factorized."""
    module = layer.module
    if not isinstance(module, (nn.Linear, _ConvNd)):
        return 0
    uses = 1 if cost == "parameters" else sum(positions_of(node, module) for node in layer.calls)
    return uses * module.weight.numel()


def _why_not_rank(each: Candidate, rank: int | None) -> str | None:
    choices = each.macs
    if rank is None:
        return "within the budget it stays as it is"
    if rank <= choices.most:
        return None
    ratio = choices.cost(rank) / choices.whole
    return f"rank {rank} of {choices.maximum} would take {ratio:.2f} of its MACs, and nothing is saved"


def _split(program: Program, each: Candidate, rank: int, summary: str) -> list[Said]:
    """Put the pair under the layer's name, and two calls in the place of each of its calls."""
    choices = each.macs
    replace_at(program.graph_module, each.layer.name, pair(each.module, rank, spatial=each.is_spatial))
    kept, ratio = f"{100 * choices.kept(rank):.1f} % of the energy", choices.cost(rank) / choices.whole
    how = f"low rank{' (spatial)' if each.is_spatial else ''}"
    told = f"{how}: rank {rank} of {choices.maximum}, {kept}, {ratio:.2f} of its MACs"
    said = []
    for node in each.layer.calls:
        part = part_of(node)
        said += [Said(new, told, part, summary=summary) for new in _split_call(program.graph, node)]
    return said


def _summary(pairs: Sequence[tuple[Candidate, int]]) -> str:
    """Of the layers in one row (an encoder's), for which one by one there is no room."""
    ranks = [rank for _, rank in pairs]
    kept = min(each.macs.kept(rank) for each, rank in pairs)
    ratio = sum(each.macs.cost(rank) for each, rank in pairs) / sum(each.macs.whole for each, _ in pairs)
    told = f"rank {ranks[0]}" if min(ranks) == max(ranks) else f"ranks {min(ranks)} to {max(ranks)}"
    return f"low rank: {told}, {100 * kept:.1f} % of the energy or more, {ratio:.2f} of their MACs"


def _split_call(graph: fx.Graph, node: fx.Node) -> tuple[fx.Node, fx.Node]:
    with graph.inserting_before(node):
        first = graph.call_module(f"{node.target}.0", node.args, dict(node.kwargs))
        second = graph.call_module(f"{node.target}.1", (first,))
    for index, new in enumerate((first, second)):
        as_part(carry(new, node), f"{part_of(node)}.{index}" if part_of(node) else f"{index}")
        if _STACK in node.meta:
            new.meta[_STACK] = node.meta[_STACK]
    node.replace_all_uses_with(second)
    graph.erase_node(node)
    return first, second


def _declined(layer: Layer, reason: str, hint: str = "") -> list[Said]:
    told = f"not factorized: {reason}"
    return [Said(node, told, part_of(node), CODE, hint) for node in layer.calls] if reason else []
