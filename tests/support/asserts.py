"""Asserts that tests share. Each has a test (tests/core/test_asserts.py) that it fails when it should."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fxquant.graphs.snapping import snapshot_of
from fxquant.ledger import Ledger
from fxquant.origin import origins
from fxquant.pipeline import Pass, Pipeline
from fxquant.program import Program
from fxquant.structure import flatten
from support.tracing import call, run_passes, trace


def assert_same(actual: Any, expected: Any, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Same structure, same leaves; tensors bit-equal unless a tolerance is given."""
    found, found_structure = flatten(actual)
    wanted, wanted_structure = flatten(expected)
    assert found_structure == wanted_structure, f"structure {found_structure} is not {wanted_structure}"
    for left, right in zip(found, wanted, strict=True):
        if isinstance(right, torch.Tensor):
            torch.testing.assert_close(left, right, rtol=rtol, atol=atol, equal_nan=True)
        else:
            assert left == right


def assert_pass(
    step: Pass, model: nn.Module, *args: Any, changes: bool = True, rtol: float = 0.0, atol: float = 0.0, **kwargs: Any
) -> tuple[Program, Ledger]:
    """The laws of every float pass: numbers, origins, no orphans, twice is like once, the model untouched."""
    model = model.eval()
    before = fingerprint(model)
    with torch.no_grad():
        expected = model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    traced, _ = trace(model, *args, **kwargs)
    program, ledger = run_passes(step, model, *args, **kwargs)
    once = snapshot_of(program.graph_module)
    assert (once != snapshot_of(traced.graph_module)) is changes, f"{step} changed the graph: {not changes}"
    assert_same(call(program, *copy.deepcopy(args), **copy.deepcopy(kwargs)), expected, rtol=rtol, atol=atol)
    assert_no_orphans(program)
    missing = [node.name for node in program.graph.nodes if not origins(node)]
    assert not missing, f"nodes without an origin: {missing}"
    again, _ = Pipeline((step,)).run(program, Ledger())
    assert snapshot_of(again.graph_module) == once, f"{step} run twice is not like once"
    assert fingerprint(model) == before, f"{step} touched the caller's model"
    return program, ledger


def assert_no_orphans(program: Program) -> None:
    """Every submodule with parameters is called, or has a tensor that is fetched, or belongs to one that is."""
    used = [str(node.target) for node in program.graph.nodes if node.op in ("call_module", "get_attr")]
    for name, module in program.graph_module.named_modules():
        if name and next(module.parameters(recurse=False), None) is not None:
            is_used = any(
                name == target or name.startswith(f"{target}.") or target.startswith(f"{name}.") for target in used
            )
            assert is_used, f"module '{name}' is left behind"


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """What of a caller's model must stay: tensors (bytes and identity), modules, attributes, flags, hooks."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return (
        tuple((name, id(tensor), tensor.requires_grad, _bytes(tensor)) for name, tensor in tensors),
        tuple(
            (
                name,
                id(module),
                type(module),
                module.training,
                tuple(sorted(module.__dict__)),
                tuple(module._modules),
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
            )
            for name, module in model.named_modules(remove_duplicate=False)
        ),
    )


def _bytes(tensor: torch.Tensor) -> bytes:
    if tensor.device.type == "meta":
        return b""
    return bytes(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).tolist()) if tensor.numel() else b""


def world() -> tuple[Any, ...]:
    """The caller's global state, as far as a compiler could disturb it."""
    return (
        torch.get_rng_state().numpy().tobytes(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.backends.quantized.engine,
        torch.get_num_threads(),
        tuple(warnings.filters),
        os.getcwd(),
    )


@contextmanager
def untouched(model: nn.Module | None = None) -> Iterator[None]:
    """The model and the world are the same after the block as before, whether it succeeds or raises."""
    before = world(), None if model is None else fingerprint(model)
    try:
        yield
    finally:
        after = world(), None if model is None else fingerprint(model)
        assert after[0] == before[0], "the block changed global state"
        assert after[1] == before[1], "the block changed the caller's model"
