"""The one door to torch.ao: nothing else in the package imports it, so the rest survives its removal.

torch.ao.quantization is deprecated and still ships; its known warnings are filtered here by message, nowhere else.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.ao.quantization import QConfig, QConfigMapping, float_qparams_weight_only_qconfig
from torch.ao.quantization.fake_quantize import FakeQuantizeBase
from torch.ao.quantization.fx.prepare import prepare as _prepare
from torch.ao.quantization.observer import ObserverBase

KNOWN_WARNINGS = (
    "torch.ao.quantization is deprecated",
    ".*quantized dtypes? (is|are) deprecated.*",
    "Please use quant_min and quant_max to specify the range for observers",
    "must run observer before calling calculate_qparams",
    "torch.quantize_per_(tensor|channel).* (is|are) deprecated",
    "TypedStorage is deprecated",
    "Currently, qnnpack incorrectly ignores reduce_range",
)

_ENGINE_LOCK = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """torch.ao's known deprecation warnings are silent inside the block; all others pass."""
    with warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def engine(name: str) -> Iterator[None]:
    """The process-global quantized engine is `name` inside the block, and as before after it; one thread at a time."""
    with _ENGINE_LOCK:
        before = torch.backends.quantized.engine
        if before == name:
            yield
            return
        torch.backends.quantized.engine = name
        try:
            yield
        finally:
            torch.backends.quantized.engine = before


# Policy: QConfig and QConfigMapping ---------------------------------------------------------------------------------


def rows_qconfig() -> object:
    """Weights only, uint8, one float scale and zero point for each row: what tables of embeddings take."""
    return float_qparams_weight_only_qconfig


# Fusing: the module types that prepare knows as one unit -------------------------------------------------------------


# Preparing: observers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepared:
    """What torch.ao's prepare gave: the graph with observer calls, and which nodes it took to be quantized."""

    graph_module: fx.GraphModule
    observed: frozenset[str]  # node names
    is_configured: frozenset[str]  # names of the nodes that had a qconfig


def prepare(graph_module: fx.GraphModule, qconfigs: Mapping[str, QConfig]) -> Prepared:
    """Insert observers for exactly these nodes (name → qconfig); all others have none.

    This is the step under `prepare_fx` that follows tracing and fusing. It is called directly because `prepare_fx` traces the
    graph again, which loses the origin of each node. Nodes are addressed by a scope of their own, so no rule can hit two.
    """
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    mapping, scopes = QConfigMapping(), {}
    for node in graph_module.graph.nodes:
        key = str(node.target) if node.op == "call_module" else f"__site__{node.name}"
        scopes[node.name] = (key, type(modules[key]) if node.op == "call_module" else nn.Module)
        if node.name in qconfigs:
            mapping.set_module_name(key, qconfigs[node.name])
    with quiet():
        prepared = _prepare(graph_module, mapping, False, scopes, example_inputs=())
    state = prepared.meta.pop("_observed_graph_module_attrs")
    configured = frozenset(name for name, qconfig in state.node_name_to_qconfig.items() if qconfig is not None)
    return Prepared(prepared, frozenset(state.observed_node_names), configured)


def is_observer(module: nn.Module | None) -> bool:
    """Is this an observer or a fake quantize?"""
    return isinstance(module, (ObserverBase, FakeQuantizeBase))


def split_fused(module: nn.Module) -> tuple[nn.Module, bool]:
    """(the layer, is a relu fused after it) of one of torch.ao's fused modules, or of a plain module."""
    if isinstance(module, _FusedModule):
        return module[0], True
    return module, False
