"""What becomes of Embedding and EmbeddingBag: rows of codes with their own scales, in every mode that quantizes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant.origin import adopt, carry
from fxquant.passes._fate import Fate
from fxquant.passes._held import HALF_MODES, FloatWeight, GroupedWeight, HalfWeight, own_ask
from fxquant.passes._weights import QuantizedWeight, fetch, observe_weight, put, quantize_weight
from fxquant.plan import Decision, Mode
from fxquant.program import Program
from fxquant.torch_ao import quiet, read_qconfig, rows_qconfig

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
        if decision.mode in HALF_MODES:
            return Fate(Mode.FLOAT, f"there is no {decision.mode} kernel for EmbeddingBag")
    is_own = decision.mode not in HALF_MODES and own_ask(decision.qconfig) is not None
    match decision.mode:
        case Mode.STATIC | Mode.DYNAMIC:
            why = f"{name} looks up indices, so there is no activation to quantize: "
            if is_own:
                return Fate(Mode.WEIGHT_ONLY, f"{why}only its table is")
            return Fate(Mode.WEIGHT_ONLY, f"{why}its rows are int8, as weight-only{_bits(decision)}", rows_qconfig())
        case Mode.WEIGHT_ONLY if not is_own and not _has_rows(decision.qconfig):
            why = "the engines read tables of uint8 rows with float scales and zero points, so it has these"
            return Fate(Mode.WEIGHT_ONLY, why, rows_qconfig())
    return None


def _bits(decision: Decision) -> str:
    """What is said where fewer bits were asked than rows have."""
    asked = read_qconfig(decision.qconfig, "the plan").weight
    return f" (all 8 bits of them: {asked} was asked, int4 packs up to 4)" if asked.num_bits < 8 else ""


def _has_rows(qconfig: Any) -> bool:
    """Does its weight observer give uint8 rows with float scales and zero points?"""
    with quiet():
        observer = qconfig.weight()
    scheme = getattr(observer, "qscheme", None)
    return getattr(observer, "dtype", None) is torch.quint8 and scheme is torch.per_channel_affine_float_qparams


def is_embedding(module: nn.Module | None) -> bool:
    """Is this a table that has a canonical form (or had one made)?"""
    return type(module) in EMBEDDINGS or isinstance(module, TABLES)


class _Table(nn.Module):
    """A table with the options of the module that stood there; the class beside it says how it is held."""

    kind: type[nn.Module]
    options: tuple[Any, ...]

    def of(self, module: nn.Module) -> Self:
        """The same, remembering that module's options."""
        self.kind, self.options = type(module), _options(module)
        return self


class _Rows(_Table, QuantizedWeight):
    """Rows as codes."""


class _HalfRows(_Table, HalfWeight):
    """Rows as 16-bit floats."""


class _GroupedRows(_Table, GroupedWeight):
    """Rows as codes of 4 bits in groups."""


class _FloatRows(_Table, FloatWeight):
    """Rows in a small float format."""


TABLES = (_Rows, _HalfRows, _GroupedRows, _FloatRows)


def _made(module: nn.Module, decision: Decision) -> Any:
    weight: torch.Tensor = module.weight.detach()  # type: ignore[operator]
    if decision.mode in HALF_MODES:
        return _HalfRows(weight, None, HALF_MODES[decision.mode]).of(module)
    ask = own_ask(decision.qconfig)
    if ask is not None:
        return (_GroupedRows if ask.granularity == "group" else _FloatRows)(weight, None, ask).of(module)
    qparams = observe_weight(weight, decision.qconfig)
    return _Rows(quantize_weight(weight, qparams), qparams, None).of(module)


def _options(module: nn.Module) -> tuple[Any, ...]:
    if isinstance(module, nn.EmbeddingBag):
        return (module.include_last_offset,)
    return (module.padding_idx, None, 2.0, False, False)


def convert(program: Program, node: fx.Node, decision: Decision) -> None:
    """Put a functional look-up in dequantized rows (or in float16 ones, widened afterwards) in the place of a call."""
    graph, name = program.graph, str(node.target)
    held: Any = program.graph_module.get_submodule(name)
    if not isinstance(held, TABLES):
        held = _made(held, decision)
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


def _look_up(graph: fx.Graph, table: fx.Node, held: Any, given: Mapping[str, Any]) -> fx.Node:
    if held.kind is nn.Embedding:
        return graph.call_function(F.embedding, (given["input"], table, *held.options))
    arguments = (given["input"], table, given["offsets"], None, 2.0, False, "sum", False)
    kept = {"per_sample_weights": given["per_sample_weights"], "include_last_offset": held.options[0]}
    return graph.call_function(F.embedding_bag, arguments, kept)
