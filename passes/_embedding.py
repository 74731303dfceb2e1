"""What becomes of Embedding and EmbeddingBag: int8 rows with their own scales, in every mode that quantizes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant.origin import adopt, carry
from fxquant.passes._fate import Fate
from fxquant.passes._weights import HalfWeight, QuantizedWeight, fetch, observe_weight, put, quantize_weight
from fxquant.plan import Decision, Mode
from fxquant.program import Program
from fxquant.torch_ao import quiet, rows_qconfig

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def fate(module: nn.Module, decision: Decision) -> Fate | None:
    """Rows of uint8 codes, or float with the reason."""
    assert isinstance(module, EMBEDDINGS)
    name = type(module).__name__
    if module.max_norm is not None:
        return Fate(Mode.FLOAT, f"max_norm={module.max_norm:g} rewrites rows of the float table in forward")
    if isinstance(module, nn.EmbeddingBag):
        if module.mode != "sum":
            return Fate(Mode.FLOAT, f"the engines' kernel sums the rows of a bag, this one takes their {module.mode}")
        if module.padding_idx is not None:
            return Fate(Mode.FLOAT, "the engines' kernel counts the rows of padding_idx too")
        if decision.mode is Mode.FLOAT16:
            return Fate(Mode.FLOAT, "there is no float16 kernel for EmbeddingBag")
    match decision.mode:
        case Mode.STATIC | Mode.DYNAMIC:
            why = f"{name} looks up indices, so there is no activation to quantize: its rows are int8, as weight-only"
            return Fate(Mode.WEIGHT_ONLY, why, rows_qconfig())
        case Mode.WEIGHT_ONLY if not _has_rows(decision.qconfig):
            why = "the engines read tables of uint8 rows with float scales and zero points, so it has these"
            return Fate(Mode.WEIGHT_ONLY, why, rows_qconfig())
    return None


def _has_rows(qconfig: Any) -> bool:
    """Does its weight observer give uint8 rows with float scales and zero points?"""
    with quiet():
        observer = qconfig.weight()
    scheme = getattr(observer, "qscheme", None)
    return getattr(observer, "dtype", None) is torch.quint8 and scheme is torch.per_channel_affine_float_qparams


def is_embedding(module: nn.Module | None) -> bool:
    """Is this a table that has a canonical form (or had one made)?"""
    return type(module) in EMBEDDINGS or isinstance(module, (_Rows, _HalfRows))


class _Rows(QuantizedWeight):
    """Rows as codes, with the options of the module that stood there."""

    def __init__(self, module: nn.Module, qconfig: Any) -> None:
        weight: torch.Tensor = module.weight.detach()  # type: ignore[operator]
        qparams = observe_weight(weight, qconfig)
        super().__init__(quantize_weight(weight, qparams), qparams, None)
        self.kind, self.options = type(module), _options(module)


class _HalfRows(HalfWeight):
    """Rows as float16, with the options of the module that stood there."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.weight, None)  # type: ignore[arg-type]
        self.kind, self.options = type(module), _options(module)


def _options(module: nn.Module) -> tuple[Any, ...]:
    if isinstance(module, nn.EmbeddingBag):
        return (module.include_last_offset,)
    return (module.padding_idx, None, 2.0, False, False)


def convert(program: Program, node: fx.Node, decision: Decision) -> None:
    """Put a functional look-up in dequantized rows (or in float16 ones, widened afterwards) in the place of a call."""
    graph, name = program.graph, str(node.target)
    held: Any = program.graph_module.get_submodule(name)
    if not isinstance(held, (_Rows, _HalfRows)):
        held = _HalfRows(held) if decision.mode is Mode.FLOAT16 else _Rows(held, decision.qconfig)
        put(program.graph_module, name, held)
    bound = inspect.signature(held.kind.forward).bind(None, *node.args, **node.kwargs)
    bound.apply_defaults()
    given = bound.arguments
    with graph.inserting_before(node):
        if isinstance(held, _HalfRows):
            half = adopt(graph.get_attr(f"{name}.weight"), node)
            rows = carry(graph.call_function(F.embedding, (given["input"], half, *held.options)), node)
            made = carry(graph.call_method("to", (rows, torch.float32)), node)
        else:
            table, _ = fetch(graph, name, held, node)
            made = carry(_look_up(graph, table, held, given), node)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _look_up(graph: fx.Graph, table: fx.Node, held: _Rows, given: Mapping[str, Any]) -> fx.Node:
    if held.kind is nn.Embedding:
        return graph.call_function(F.embedding, (given["input"], table, *held.options))
    arguments = (given["input"], table, given["offsets"], None, 2.0, False, "sum", False)
    kept = {"per_sample_weights": given["per_sample_weights"], "include_last_offset": held.options[0]}
    return graph.call_function(F.embedding_bag, arguments, kept)
