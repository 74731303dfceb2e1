"""Short cuts for tests that quantize pass by pass: a plan by hand, and the passes from custom-modules on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fxquant.batches import Batches
from fxquant.capture import capture
from fxquant.ledger import Ledger
from fxquant.origin import scope, site_of
from fxquant.passes.calibrate import Calibrate
from fxquant.passes.convert import Convert
from fxquant.passes.custom_modules import CustomModules
from fxquant.passes.insert_observers import InsertObservers
from fxquant.passes.lower_native import LowerNative
from fxquant.pipeline import Pipeline
from fxquant.plan import Decision, Mode, QuantPlan
from fxquant.program import Program, Stage
from fxquant.request import CaptureRequest
from fxquant.row import Row
from fxquant.torch_ao import engine, quiet
from support.tracing import call, trace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao import quantization as ao

CALLS = ("call_module", "call_function", "call_method")
with quiet():
    QCONFIGS: dict[Mode, Any] = {
        Mode.STATIC: ao.get_default_qconfig("x86"),
        Mode.DYNAMIC: ao.per_channel_dynamic_qconfig,
        Mode.WEIGHT_ONLY: ao.float_qparams_weight_only_qconfig,
        Mode.FLOAT16: ao.float16_dynamic_qconfig,
        Mode.FLOAT: None,
    }


def planned(program: Program, ledger: Ledger, mode: Mode, qconfig: Any = None) -> Program:
    """A plan that asks the same of every call."""
    decisions = []
    for node in program.graph.nodes:
        if node.op in CALLS:
            module = program.module_of(node)
            name = str(node.target) if module is not None else scope(node)
            op = type(module).__name__ if module is not None else str(node.target)
            chosen = QCONFIGS[mode] if qconfig is None else qconfig
            decisions.append(Decision(site_of(node), name, op, mode, chosen, f"{mode} everything", "by the test"))
            ledger.request(site_of(node), f"{mode} everything", "by the test")
    return replace(program, plan=QuantPlan(tuple(decisions)), stage=Stage.PLANNED)


def quantized(
    model: nn.Module,
    mode: Mode,
    *args: Any,
    handlers: Sequence[Any] = (),
    leaf_modules: Sequence[Any] = (),
    target: str = "x86",
    qconfig: Any = None,
    plan: Callable[[Program, Ledger], Program] | None = None,
    until: Stage = Stage.LOWERED,
    strict: bool = False,
    **kwargs: Any,
) -> tuple[Program, Ledger]:
    """A model from custom-modules to lower-native, asked `mode` everywhere."""
    ledger = Ledger()
    request = CaptureRequest(copy.deepcopy(model).eval(), args or None, kwargs or None, leaf_modules=leaf_modules)
    program = replace(capture(request, ledger), target=target)
    program = planned(program, ledger, mode, qconfig) if plan is None else plan(program, ledger)
    steps = Pipeline(
        (
            CustomModules(handlers=tuple(handlers), strict=strict),
            InsertObservers(),
            Calibrate(data=Batches([(args, kwargs)])),
            Convert(),
            LowerNative(),
        )
    )
    with engine(target), quiet(), torch.no_grad():
        program, _ = steps.until(until).run(program, ledger)
    return program, ledger


def row_of(ledger: Ledger, module: str) -> Row:
    """The one row of a module."""
    rows = [row for row in ledger.layers if row.module == module]
    assert len(rows) == 1, [row.module for row in ledger.layers]
    return rows[0]


def sqnr_db(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Signal to quantization noise, in decibels."""
    noise = (found - expected).double().pow(2).mean()
    return float(10 * torch.log10(expected.double().pow(2).mean() / noise))


__all__ = ["QCONFIGS", "call", "planned", "quantized", "row_of", "sqnr_db", "trace"]
