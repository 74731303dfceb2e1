"""Rows of what no engine runs: few bits, small floats, weights in groups under quantized activations (FXQ508)."""

from __future__ import annotations

import operator
from functools import cache

import torch
import torch.nn.functional as F
from torch import fx

from fxquant import float_formats, qdq
from fxquant.keep_float import is_kept_float
from fxquant.ledger import Ledger
from fxquant.origin import origins
from fxquant.passes._weights import held_as
from fxquant.plan import Decision, Mode
from fxquant.program import Program
from fxquant.qconfigs import Ask
from fxquant.torch_ao import read_qconfig

CODE = "FXQ508"
_ROUNDS = (*qdq.QUANTIZE, float_formats.simulate_float)
_RELUS = (F.relu, torch.relu)
_HINT = "to run it, ask for uint8 activations of 8 bits and int8 weights"


def settle(program: Program, ledger: Ledger) -> None:
    """Write down for each simulated site what is simulated, and why no engine runs it."""
    ask_of = cache(lambda qconfig: read_qconfig(qconfig, "the plan"))
    for node in program.graph.nodes:
        decision = None if program.plan is None else program.plan.of(node)
        if decision is None or not _may_be(node, decision):
            continue
        ask, held = ask_of(decision.qconfig), held_as(node, program.graph_module)
        why = refusal(ask, has_weight=bool(held))
        if why is None or not (held or _is_rounded(node)):
            continue
        effective = f"simulated {ask.activation}" + (f" × {ask.weight}" if held else "")
        ledger.settle(node, effective, f"{why}: computed on the canonical graph", code=CODE, hint=_HINT)


def _may_be(node: fx.Node, decision: Decision) -> bool:
    is_site = bool(origins(node)) and node.target is not operator.getitem and not is_kept_float(node)
    return is_site and decision.mode in (Mode.STATIC, Mode.DYNAMIC)


def _is_rounded(node: fx.Node) -> bool:
    """Is its result rounded, by itself or through the relu that belongs to it?"""
    users = list(node.users)
    if any(user.target in _ROUNDS for user in users):
        return True
    return len(users) == 1 and users[0].target in _RELUS and any(user.target in _ROUNDS for user in users[0].users)


def refusal(ask: Ask, *, has_weight: bool) -> str | None:
    """Why no engine runs this; None where one may."""
    if ask.activation.is_simulated:
        return f"no engine runs {ask.activation} activations"
    if ask.activation.num_bits < 8 and not ask.activation.is_float:
        return f"no engine runs {ask.activation.num_bits}-bit activations"
    if has_weight and ask.weight.is_own:
        return f"no engine runs {ask.weight} weights with quantized activations"
    return None
