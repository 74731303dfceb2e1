"""prune-magnitude: the smallest weights become zero, and stay it, through training and to the bit in the artifact.

    sparsity s:   the floor(s · n) smallest |w| of a layer (or of all layers together) become 0
    pattern N:M:  of each M neighbours along the input dimension all but the N largest |w| become 0

Source: Han et al. 2015 (arXiv:1506.02626); N:M: Zhou et al. 2021 (arXiv:2102.04010).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxquant.errors import UsageError
from fxquant.ledger import Ledger
from fxquant.origin import part_of
from fxquant.passes._chosen_layers import Chooser, Layer, check_choosers, chosen, layers_of
from fxquant.passes._magnitude import Pattern, smallest, smallest_in_blocks, smallest_of_all
from fxquant.passes._prunable import ROWS, Prunable, functional, prunable, tied_rows, why_not
from fxquant.passes._telling import Said, say
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage

CODE = "FXQ412"
NO_SPEED = (
    "torch's CPU engines have no sparse kernels: pruned weights make no layer faster and no file smaller by "
    "themselves; a file of them compresses better (zip)"
)


@dataclass(frozen=True)
class PruneMagnitude(Pass):
    """The weights of smallest magnitude become zero, and stay it through training, quantization and saving.

    Args:
        sparsity: the share of weights to prune, between 0 and 1. Give either this or a pattern.
        pattern: 'N:M', such as '2:4': at most N of M neighbours along the input dimension are not zero.
        scope: of sparsity: 'layer' prunes the share of each layer, 'global' of all of them together.
        targets: names, 're:' regexes and classes (or their names) of the layers to prune; none: all that can be.
        ignore: likewise, those to leave whole.

    Raises:
        UsageError: FXQ133 for options that mean nothing, or where a layer would lose all of its weights.
        UnknownTargetError: FXQ110 for a target that the model does not have.
    """

    sparsity: float | None = None
    pattern: str | None = None
    scope: str = "layer"
    targets: Sequence[Chooser] = ()
    ignore: Sequence[Chooser] = ()

    name: ClassVar[str] = "prune-magnitude"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED})

    def __post_init__(self) -> None:
        check_choosers(self.name, targets=self.targets, ignore=self.ignore)
        if (self.sparsity is None) == (self.pattern is None):
            given = f"sparsity={self.sparsity!r} and pattern={self.pattern!r}"
            raise _meaningless(given, "give either sparsity=0.5, a share of the weights, or pattern='2:4'")
        if self.sparsity is not None:
            _check_share(self.sparsity)
        else:
            read_pattern(self.pattern)
        if self.scope not in ("layer", "global"):
            raise _meaningless(f"scope={self.scope!r}", "scope is 'layer' or 'global'")
        if self.pattern is not None and self.scope != "layer":
            raise _meaningless(f"scope='global' with pattern={self.pattern!r}", "a pattern has no scope: it is local")

    def run(self, program: Program, ledger: Ledger) -> Program:
        layers = chosen(layers_of(program), self.targets, self.ignore, self.name)
        weights, said = _weights(program, layers, self)
        said += [] if self.targets else _functional(program)
        if not weights:
            say(ledger, said)
            return program
        masks = self._masks([weight for _, weight in weights])
        with torch.no_grad():
            for (_, weight), mask in zip(weights, masks, strict=True):
                weight.weight.masked_fill_(mask, 0.0)
        say(ledger, [*said, *_pruned(weights, self.pattern)])
        ledger.notice(CODE, NO_SPEED, hint="prune-channels makes tensors smaller, and layers faster")
        return replace(program, pruned=program.pruned | {weight.name for _, weight in weights})

    def _masks(self, weights: Sequence[Prunable]) -> list[Tensor]:
        if self.pattern is not None:
            pattern = read_pattern(self.pattern)
            return [smallest_in_blocks(weight.weight, pattern, weight.input_axis) for weight in weights]
        assert self.sparsity is not None
        if self.scope == "layer":
            return [smallest(weight.weight, math.floor(self.sparsity * weight.weight.numel())) for weight in weights]
        count = math.floor(self.sparsity * sum(weight.weight.numel() for weight in weights))
        masks = smallest_of_all([weight.weight for weight in weights], count)
        _check_none_is_empty(weights, masks, self.sparsity)
        return masks


def _meaningless(given: str, hint: str) -> UsageError:
    return UsageError("FXQ133", f"prune-magnitude got {given}", hint=hint)


def _check_share(sparsity: object) -> None:
    is_number = isinstance(sparsity, (int, float)) and not isinstance(sparsity, bool)
    if not is_number or not 0 < sparsity < 1:  # type: ignore[operator]  # NaN is not between either
        raise _meaningless(
            f"sparsity={sparsity!r}", "a share of the weights above 0 (nothing to prune) and below 1 (nothing left)"
        )


def read_pattern(text: object) -> Pattern:
    """'2:4' → Pattern(2, 4). FXQ133 for what is no pattern."""
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text) if isinstance(text, str) else None
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise _meaningless(f"pattern={text!r}", "'N:M' keeps N of M neighbours, with 0 < N < M: '2:4', '1:4'")
    return Pattern(int(found[1]), int(found[2]))


def _check_none_is_empty(weights: Sequence[Prunable], masks: Sequence[Tensor], sparsity: float) -> None:
    for weight, mask in zip(weights, masks, strict=True):
        if bool(mask.all()):
            layer = weight.name.rpartition(".")[0]
            raise UsageError(
                "FXQ133",
                f"sparsity={sparsity!r} over all layers would leave '{weight.name}' without a weight: its "
                f"{weight.weight.numel():,} are the smallest of all",
                hint=f"scope='layer' prunes each layer by itself; or leave this one out: ignore=['{layer}']",
                module=layer,
            )


def _weights(
    program: Program, layers: Sequence[Layer], asked: PruneMagnitude
) -> tuple[list[tuple[Layer, Prunable]], list[Said]]:
    """What is pruned, each tensor once; and what is to be said of the layers that are not."""
    rows, seen = tied_rows(program.graph_module), set[int]()
    found, said = list[tuple[Layer, Prunable]](), list[Said]()
    for layer in layers:
        held = prunable(layer)
        reason = None if held else why_not(layer, is_meant=layer.is_asked_for(asked.targets))
        if reason is not None:
            said += _declined(layer, reason)
        for weight in held:
            refused = _refusal(weight, rows, asked)
            if refused is not None:
                said += _declined(layer, refused)
            elif id(weight.weight) not in seen:
                seen.add(id(weight.weight))
                found.append((layer, weight))
    return found, said


def _refusal(weight: Prunable, rows: dict[int, str], asked: PruneMagnitude) -> str | None:
    if id(weight.weight) in rows:
        return f"its weight is also the table of '{rows[id(weight.weight)]}': {ROWS}"
    if not bool(weight.weight.any()):
        return "its weights are all zero already"
    if asked.pattern is not None and weight.inputs % read_pattern(asked.pattern).block:
        return f"its {weight.inputs} inputs are no multiple of the {asked.pattern.partition(':')[2]} of {asked.pattern}"
    return None


def _declined(layer: Layer, reason: str) -> list[Said]:
    inner = layer.name.removeprefix(f"{layer.calls[0].target}.")
    part = "" if layer.is_called else inner  # of a called module the row has to say which part
    return [Said(node, f"not pruned: {reason}", _joined(node, part), CODE) for node in layer.calls]


def _joined(node: fx.Node, part: str) -> str:
    return ".".join(name for name in (part_of(node), part) if name)


def _functional(program: Program) -> list[Said]:
    hint = "put 'functionalize' and 'normalize-calls' before prune-magnitude, as compress() does"
    told = "not pruned: its weight is an argument of {}, not a layer's"
    return [
        Said(node, told.format(getattr(node.target, "__name__", node.target)), part_of(node), CODE, hint)
        for node in functional(program)
    ]


def _pruned(weights: Sequence[tuple[Layer, Prunable]], pattern: str | None) -> list[Said]:
    """The counts of each call, computed from the weights as they are now."""
    counts: dict[fx.Node, tuple[int, int]] = {}
    for layer, weight in weights:
        zeros, whole = int((weight.weight == 0).sum()), weight.weight.numel()
        for node in layer.calls:
            before = counts.get(node, (0, 0))
            counts[node] = before[0] + zeros, before[1] + whole
    how = "pruned" if pattern is None else f"pruned {pattern}"
    return [
        Said(
            node,
            f"{how}: {zeros:,} of {whole:,} weights are zero ({100 * zeros / whole:.1f} %)",
            part_of(node),
            summary=f"{how}: {100 * zeros / whole:.1f} % of the weights are zero",
        )
        for node, (zeros, whole) in counts.items()
    ]
