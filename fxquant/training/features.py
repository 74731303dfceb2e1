"""Values of named modules during a call: by hooks of a plain module, by identity in a captured graph.

A name means the module of the user's model. In a captured graph a module may have been fused, folded or removed: its
value is then that of another name, or gone, and FXQ128 says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, fx, nn

from fxquant.errors import FxQuantError, UnknownTargetError, did_you_mean
from fxquant.origin import origins
from fxquant.structure import flatten
from fxquant.torch_ao import is_observer
from fxquant.trainable import TrainableModel

Values = dict[str, Tensor]


def refusal(name: str, whose: str, why: str, hint: str) -> FxQuantError:
    """FXQ128."""
    return UnknownTargetError("FXQ128", f"feature '{name}' of the {whose}: {why}", hint=hint, module=name)


class Taps:
    """Calls a model and gives its output with the values of these names. Nothing stays on the model afterwards."""

    def __init__(self, model: nn.Module, names: Sequence[str], *, whose: str) -> None:
        self.model, self.names, self.whose = model, tuple(names), whose
        self._tapped = _tapped(model, self.names, whose) if isinstance(model, TrainableModel) and names else None

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Values]:
        """(the output, name → value); gradients flow."""
        if self._tapped is None:
            return self._hooked(args, kwargs)
        assert isinstance(self.model, TrainableModel)
        signature = self.model.program.signature
        results = self.model.run_graph(self._tapped, signature.leaves(args, kwargs))
        count = len(results) - len(self.names)
        found = dict(zip(self.names, results[count:], strict=True))
        return signature.rebuild(results[:count]), {name: self._tensor(name, value) for name, value in found.items()}

    def _hooked(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Values]:
        modules, found = dict(self.model.named_modules()), dict[str, Any]()
        with ExitStack() as stack:
            for name in self.names:
                if name not in modules:
                    raise refusal(
                        name, self.whose, "there is no such module", did_you_mean(name, filter(None, modules))
                    )
                stack.callback(modules[name].register_forward_hook(_keeper(found, name)).remove)
            output = self.model(*args, **kwargs)
        for name in self.names:
            if name not in found:
                raise refusal(name, self.whose, "it is not called", "name a module that forward() calls")
        return output, {name: self._tensor(name, value) for name, value in found.items()}

    def _tensor(self, name: str, value: Any) -> Tensor:
        """The first floating-point tensor of a module's result."""
        found = (leaf for leaf in flatten(value)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point())
        tensor = next(found, None)
        if tensor is None:
            raise refusal(name, self.whose, "its result holds no floating-point tensor", "name another module")
        return tensor


def _keeper(found: dict[str, Any], name: str) -> Any:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        found[name] = output  # of several calls the last one counts

    return keep


# Captured graphs ----------------------------------------------------------------------------------------------------


def _tapped(model: TrainableModel, names: Iterable[str], whose: str) -> fx.GraphModule:
    """The model's graph over the same modules, with the values of the names behind its own outputs."""
    wanted = [node_of(model, name, whose) for name in names]
    copies: dict[fx.Node, fx.Node] = {}
    graph = fx.Graph()
    for node in model.graph_module.graph.nodes:
        if node.op == "output":
            results = tuple(copies[result] if isinstance(result, fx.Node) else result for result in node.args[0])
            graph.output((*results, *(copies[source] for source in wanted)))
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(model.graph_module, graph)


def node_of(model: TrainableModel, name: str, whose: str = "model") -> fx.Node:
    """The node whose value is that of the user's module `name`. FXQ128 where there is none."""
    rows = {row.site: row for row in model.ledger.layers}
    inside = {site for site, row in rows.items() if row.module == name or row.module.startswith(f"{name}.")}
    if not inside or not name:
        known = dict.fromkeys(row.module for row in rows.values() if row.module)
        raise refusal(name, whose, "there is no such module in the graph", did_you_mean(name, known))
    nodes: list[fx.Node] = [node for node in model.graph_module.graph.nodes if origins(node)]
    ends = {node for node in nodes if origins(node)[-1] in inside}
    leaving = [node for node in nodes if node in ends and _readers(model, node) - ends]
    if len(leaving) == 1:
        return leaving[0]
    if leaving:
        told = ", ".join(f"'{node.name}'" for node in leaving)
        raise refusal(name, whose, f"several of its values are read outside of it ({told})", "name one module in it")
    around = next((node for node in nodes if inside & set(origins(node))), None)
    if around is None:
        row = rows[next(iter(sorted(inside)))]
        raise refusal(name, whose, f"it is not in the graph any more ({row.effective}: {row.reason})", "name another")
    now = rows[origins(around)[-1]]
    why = f"it is one with what follows it, and has no value of its own: that of '{now.module or now.site}' is there"
    raise refusal(name, whose, why, f"name '{now.module}'" if now.module else "name the module before it")


def _readers(model: TrainableModel, node: fx.Node) -> set[fx.Node]:
    """Who reads a value, seen through fake quantizers."""
    found: set[fx.Node] = set()
    for user in node.users:
        is_seen_through = user.op == "call_module" and is_observer(model.program.module_of(user))
        found |= _readers(model, user) if is_seen_through else {user}
    return found
