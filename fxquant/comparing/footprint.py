"""What a candidate takes: bytes on disk, bytes of memory during a call, and the share of its arithmetic on codes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from fxquant.errors import FxQuantError
from fxquant.graphs.costs import costs
from fxquant.graphs.regions import Region, regions
from fxquant.graphs.snapping import snapshot
from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.model import CompiledModel
from fxquant.program import Stage
from fxquant.sizes import size_bytes
from fxquant.structure import flatten
from fxquant.trainable import TrainableModel


def size_on_disk(model: nn.Module) -> tuple[int, str]:
    """(bytes, how they were counted). A compiled model is saved, for a moment, and its file is looked at.

    What no file of ours can hold, and any other module, counts the tensors of its `state_dict()`, each storage once;
    packed weights in it are counted by the tensors inside of them.
    """
    if not isinstance(model, CompiledModel):
        return size_bytes(_tensors(model.state_dict())), "state_dict"
    with tempfile.TemporaryDirectory(prefix="fxquant-") as folder:
        try:
            return model.save(Path(folder) / "candidate.fxq.safetensors").stat().st_size, "file"
        except FxQuantError:  # it holds something that no file can
            return model.size_bytes(), "state_dict"


def _tensors(state: Any) -> list[torch.Tensor]:
    return [leaf for leaf in flatten(dict(state))[0] if isinstance(leaf, torch.Tensor)]


def peak_bytes(call: Callable[[], object]) -> int | None:
    """Most bytes that one call holds at a time, of what torch's CPU allocator gave it while it ran. None: not known.

    Activations and the kernels' scratch tensors are in it; weights, which were there before, are not; nor is memory
    that a kernel takes from elsewhere (oneDNN's scratchpads). It is the allocator's own count, the same on each run,
    where the resident size of a process has the noise of pages and of what an earlier call left. Allocations of worker
    threads are added as if they were there at the same time.
    """
    legacy: Any = torch.autograd  # torch.profiler has the same numbers, and lets its library write to stderr
    if not hasattr(legacy, "_enable_profiler_legacy"):
        return None
    from torch._C._profiler import _ExperimentalConfig

    call()  # what is made once and kept belongs to no call
    config = legacy.ProfilerConfig(legacy.ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    legacy._enable_profiler_legacy(config)
    try:
        call()
    finally:
        records = legacy._disable_profiler_legacy()
    changes = ((event.cpu_memory_usage() for event in thread if event.kind() == "memory_alloc") for thread in records)
    return sum(map(_peak, changes))


def _peak(changes: Iterable[int]) -> int:
    now = most = 0
    for change in changes:
        now += change
        most = max(most, now)
    return most


def int8_share(model: nn.Module, example: tuple[torch.Tensor, ...] | None) -> float | None:
    """Share (0 to 1) of the multiply-accumulates that the graph computes on codes; None where no graph tells.

    Layers on int8 or float16 weights with float activations are computed in float. Where the graph calls a module that
    nobody looked into, or an operation whose shapes do not tell how much it multiplies, the share is not known.
    """
    try:
        graph, like = _graphs(model, example)
    except FxQuantError:
        return None
    if graph is None:
        return None
    where, known = regions(graph), costs(graph, like=like)
    if Region.QUANTIZED not in where.values():
        return 0.0
    if any(cost.macs is None for cost in known.values()) or _has_opaque_matrices(model):
        return None
    total = sum(cost.macs or 0 for cost in known.values())
    on_codes = sum(cost.macs or 0 for name, cost in known.items() if where[name] is Region.QUANTIZED)
    return on_codes / total if total else None


def _has_opaque_matrices(model: nn.Module) -> bool:
    """Does the graph call a module of parts, with matrices in them, that was not traced into?"""
    graph_module = getattr(model, "graph_module", model)
    if not isinstance(graph_module, fx.GraphModule):
        return False
    called = (node.target for node in graph_module.graph.nodes if node.op == "call_module")
    modules = (graph_module.get_submodule(str(target)) for target in called)
    return any(
        next(module.children(), None) is not None and any(weight.dim() > 1 for weight in module.parameters())
        for module in modules
    )


def _graphs(
    model: nn.Module, example: tuple[torch.Tensor, ...] | None
) -> tuple[GraphSnapshot | None, GraphSnapshot | None]:
    """The graph that runs, and an earlier one in which packed weights have shapes."""
    if isinstance(model, CompiledModel):
        is_converted = model.stage >= Stage.CONVERTED
        return model.snapshot(), model.snapshot(Stage.CONVERTED if is_converted else model.first_stage)
    if isinstance(model, TrainableModel):
        return snapshot(model.program), None
    if isinstance(model, fx.GraphModule) and example is not None:
        return snapshot(model, example_inputs=example), None
    return None, None
