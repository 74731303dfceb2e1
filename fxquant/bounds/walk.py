"""The walk through the canonical graph: each node by its rule, and unbounded with the reason where there is none."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from fxquant import float_formats, qdq, recurrent
from fxquant.bounds import (  # noqa: F401 (they fill the table)
    deciding,
    elementwise,
    formats,
    moving,
    normalizing,
    products,
    recurring,
    reducing,
    rounding,
    writing,
)
from fxquant.bounds.bounded import Bounded, NoBound, exact, lifted, rule_of
from fxquant.bounds.rounding import Codes, Step
from fxquant.origin import site_of

_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
LAYERS = (F.linear, F.conv1d, F.conv2d, F.conv3d, *_TRANSPOSED)
_ROUNDS = (qdq.quantize_per_tensor, qdq.choose_qparams, float_formats.simulate_float, float_formats.choose_float_scale)
_OURS = (Bounded, Codes, Step)


class Walk(fx.Interpreter):
    """Runs the canonical graph on Bounded values. `found` has each node's, `unbounded` (site, reason) pairs."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.found: dict[fx.Node, Bounded] = {}
        self.garbage_collect_values = False  # scales are read again
        self.unbounded: dict[str, str] = {}

    def run_node(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        value = self._value(node, tuple(args), dict(kwargs))
        if isinstance(value, Tensor) and node.op != "get_attr":
            self.found[node] = exact(value)
        elif isinstance(value, (Bounded, Codes)):
            self.found[node] = value.value if isinstance(value, Codes) else value
        return value

    def _value(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op not in ("call_module", "call_function", "call_method"):
            return getattr(self, node.op)(node.target, args, kwargs)
        is_touched = any(isinstance(leaf, _OURS) for leaf in tree_flatten((args, kwargs))[0])
        if not is_touched and not _has_own_kernel(node):
            return super().run_node(node)
        try:
            value = self._ruled(node, args, kwargs)
            more = self._coded_bias(node, args, kwargs), self._bfloat16(node, args, kwargs)
            for error in more:
                value = value if error is None else value.widened(error)
            return value
        except (NoBound, AttributeError, TypeError, RuntimeError, ValueError, IndexError) as error:
            self.unbounded[site_of(node)] = _told(self, node, error)
            return self._without_rule(node, args, kwargs)

    def _ruled(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "call_module":
            return self.fetch_attr(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            receiver, *rest = args
            return getattr(receiver, str(node.target))(*rest, **kwargs)
        if _is_recurrent(node):
            args = (lifted(args[0]), *args[1:])
        found = rule_of(node.target)
        if found is not None:
            return found(*args, **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _coded_bias(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """qnnpack holds the bias of a static layer in int32 codes of step s_x · s_w: half of that off. Others float."""
        has_bias = len(args) > 2 and args[2] is not None
        x, weight = (args[0], node.args[1]) if has_bias else (None, None)
        if not isinstance(x, Bounded) or x.grid is None or not isinstance(weight, fx.Node):
            return None
        if node.target not in LAYERS or weight.target not in qdq.DEQUANTIZE:
            return None
        scale = self._get(weight.args[1])
        most = torch.as_tensor(scale, dtype=torch.float64).max()
        if isinstance(scale, Tensor) and node.target not in _TRANSPOSED:
            most = scale.double().view(-1, *[1] * (0 if node.target is F.linear else args[1].dim() - 2))
        return most * x.grid[0] / 2

    def _bfloat16(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """CPUs with bfloat16 compute layers on such weights in it."""
        weight = node.args[1] if len(node.args) > 1 else None
        is_widened = isinstance(weight, fx.Node) and weight.op == "call_method" and weight.target == "to"
        return formats.bfloat16_slack(node, self._get(weight.args[0]), args, kwargs) if is_widened else None  # type: ignore[union-attr]

    def _get(self, argument: Any) -> Any:
        return self.env[argument] if isinstance(argument, fx.Node) else argument

    def _without_rule(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The op on the centres, of which nothing is known."""
        args, kwargs = tree_map_only(Bounded, _plain, (args, kwargs))
        value = getattr(self, node.op)(node.target, args, kwargs)
        return tree_map_only(Tensor, _unbounded, value)


def _has_own_kernel(node: fx.Node) -> bool:
    """May an engine compute this otherwise than by this very call, although nothing was rounded before it?"""
    if node.op != "call_function":
        return False
    if node.target in (F.embedding, F.embedding_bag, *_ROUNDS) or _is_recurrent(node):
        return True
    weight = node.args[1] if node.target in LAYERS else None
    return isinstance(weight, fx.Node) and weight.op == "call_method"  # a 16-bit weight that is widened


def _is_recurrent(node: fx.Node) -> bool:
    return getattr(node.target, "__module__", "") == recurrent.__name__


def _plain(bounded: Bounded) -> Tensor:
    value = bounded.value
    return value.float() if value.is_floating_point() else value


def _unbounded(value: Tensor) -> Bounded:
    everything = torch.full(value.shape, torch.inf, dtype=torch.float64)
    return Bounded(value.double() if value.is_floating_point() else value, everything, everything.clone())


def _told(walk: Walk, node: fx.Node, error: Exception) -> str:
    module = walk.fetch_attr(str(node.target)) if node.op == "call_module" else None
    named = type(module).__name__ if isinstance(module, nn.Module) else getattr(node.target, "__name__", node.target)
    if isinstance(error, NoBound):
        return f"{named}: {error}"
    return f"{named}: the rules do not reach it ({type(error).__name__})"
