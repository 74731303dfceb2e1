"""What prune-channels says: a notice for the step, one for each group, a remark in the rows of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxquant.errors import UsageError
from fxquant.graphs.channel_choice import Limits, Work
from fxquant.graphs.channels import Alive, Group
from fxquant.ledger import Ledger
from fxquant.passes._channel_flow import Flow

PRUNED, STAYS = "FXQ410", "FXQ411"
_FEW = 3  # names that a line lists


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in one graph, to be told when it is known what goes."""

    flow: Flow
    groups: Sequence[Group]
    kinds: Sequence[str]  # of importance, group by group
    work: Work
    limits: Limits

    def tell(self, ledger: Ledger, alive: Alive, step: str, parameters: tuple[int, int]) -> None:
        """Write it all into the ledger."""
        ledger.notice(PRUNED, f"{step}: {self._summary(alive, parameters)}")
        for group, kind in zip(self.groups, self.kinds, strict=True):
            count, left = group.channels, sum(bool(alive[atoms[0]]) for atoms in group.units) * _a_unit(group)
            module = group.layers[0]
            if group.frozen:
                ledger.notice(STAYS, f"its {_channels(count)} stay{_others(group)}: {group.frozen}", module=module)
            elif left == count:
                why = self._why_whole(group)
                ledger.notice(STAYS, f"its {_channels(count)} stay{_others(group)}: {why}", module=module)
            else:
                told = f"{count} → {_channels(left)}{_others(group)}, importance {kind}"
                ledger.notice(PRUNED, told, module=module)
                self._remark(ledger, group, f"{count} → {_channels(left)} by importance {kind}")

    def outlines(self) -> list[tuple[str, tuple[str, ...]]]:
        """(label, names of nodes) of each group, for `fxquant.draw(islands=...)`: what makes or scales its channels."""
        found = []
        for group in self.groups:
            norms = (axis.tensor.rpartition(".")[0] for axis in group.places if axis not in self.flow.consuming)
            holders = {*group.layers, *norms}
            nodes = (node for node in self.flow.program.graph.nodes if node.op == "call_module")
            label = f"{_channels(group.channels)}{' stay: ' + group.frozen if group.frozen else ' of one group'}"
            found.append((label, tuple(node.name for node in nodes if str(node.target) in holders)))
        return found

    def _remark(self, ledger: Ledger, group: Group, why: str) -> None:
        for node in self.flow.program.graph.nodes:
            if node.op == "call_module" and str(node.target) in group.layers:
                ledger.remark(node, f"pruned, {why}")

    def _summary(self, alive: Alive, parameters: tuple[int, int]) -> str:
        free = [group for group in self.groups if not group.frozen]
        pruned = sum(any(not alive[atoms[0]] for atoms in group.units) for group in free)
        if not free:
            return "nothing can be pruned" + (
                ": " + self._blocking() if self.groups else ": no layer makes channels of its own"
            )
        before, after = self.work.left(self.flow.channels.all_alive()), self.work.left(alive)
        return (
            f"{round(before):,} → {round(after):,} MACs ({_share(after, before)}), "
            f"{parameters[0]:,} → {parameters[1]:,} parameters ({_share(parameters[1], parameters[0])}); "
            f"{pruned} of {len(self.groups)} groups pruned, {len(self.groups) - len(free)} frozen"
        )

    def _why_whole(self, group: Group) -> str:
        if self.limits.units(group, 1) == len(group):
            return f"round_to={self.limits.round_to} and min_channels={self.limits.min_channels} leave none to take"
        return "none of them has to go"

    def unreachable(self, macs: float, best: Alive) -> UsageError:
        """FXQ131: a budget that is not met with every free channel gone."""
        whole, least = self.work.left(self.flow.channels.all_alive()), self.work.left(best)
        floor = f"round_to={self.limits.round_to} and min_channels={self.limits.min_channels}"
        return UsageError(
            "FXQ131",
            f"macs={macs!r} is out of reach: with every channel gone that may go, {_share(least, whole)} of the MACs "
            f"remain; {self._blocking()}",
            hint=f"ask for more, free what is frozen, or let go of {floor}",
        )

    def _blocking(self) -> str:
        """The frozen groups, the widest first."""
        frozen = sorted((group for group in self.groups if group.frozen), key=lambda group: -group.channels)
        if not frozen:
            return "no channel is frozen" if self.groups else "no layer makes channels of its own"
        named = [f"'{group.layers[0]}' keeps {_channels(group.channels)}: {group.frozen}" for group in frozen]
        return "; ".join(named[:_FEW]) + (f"; and {len(named) - _FEW} more" if len(named) > _FEW else "")


def _a_unit(group: Group) -> int:
    return next(iter(group.made.values()))


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count != 1)}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "0 %"


def _others(group: Group) -> str:
    others = [f"'{name}'" for name in group.layers[1:]]
    if not others:
        return ""
    told = ", ".join(others[:_FEW]) + (f" and {len(others) - _FEW} more" if len(others) > _FEW else "")
    return f" in a group of {len(group.layers)} layers, with {told}"
