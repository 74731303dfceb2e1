"""How many dimensions a traced value has: the graph so far is run on fake tensors, when asked and not before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import fx


class Ranks:
    """Ranks of the nodes of a graph that is being traced, from one example of its inputs.

    A rank follows from the ranks of the inputs, unless something on the way drops dimensions by their size
    (`squeeze()` without a dim): then none is told.
    """

    def __init__(self, fetch: Callable[[str], Any], example: Sequence[torch.Tensor] | None) -> None:
        self.is_asked = False
        self.is_running = False  # a tracer must not record what is run here
        self._fetch, self._example = fetch, example
        self._values: dict[fx.Node, Any] = {}
        self._inputs = iter(example or ())

    def of(self, node: fx.Node) -> int | None:
        """The rank of a node; None where it is not known."""
        if self._example is None:
            return None
        value = self._value(node)
        if not isinstance(value, torch.Tensor):
            return None
        self.is_asked = True
        return value.dim()

    def dtype_of(self, node: fx.Node) -> torch.dtype | None:
        """The dtype that a node gives (`x.dtype` as a value); None where it is not known, or is none."""
        value = None if self._example is None else self._value(node)
        return value if isinstance(value, torch.dtype) else None

    @cached_property
    def _mode(self) -> Any:
        from torch._subclasses.fake_tensor import FakeTensorMode  # imports sympy, so only when it is needed

        return FakeTensorMode(allow_non_fake_inputs=True)

    def _value(self, node: fx.Node) -> Any:
        for one in node.graph.nodes:  # in order, each once: a chain may be long, so no recursion
            if one not in self._values:
                self._values[one] = self._run(one)
            if one is node:
                break
        return self._values[node]

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            example = next(self._inputs)
            return self._mode.from_tensor(example.detach())
        if node.op == "get_attr":
            return self._faked(self._fetch(str(node.target)))
        sources = [self._values[source] for source in node.all_input_nodes]
        if any(value is _UNKNOWN for value in sources) or _drops_by_size(node):
            return _UNKNOWN
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        self.is_running = True
        try:
            with self._mode, torch.no_grad():
                return self._call(node, args, kwargs)
        except (
            Exception
        ):  # fake tensors cannot run everything (data-dependent shapes, custom ops): then it is not known
            return _UNKNOWN
        finally:
            self.is_running = False

    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "call_module":
            module = self._fetch(str(node.target))
            state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            faked = {name: self._faked(tensor) for name, tensor in state.items()}
            return torch.func.functional_call(module, faked, args, kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _faked(self, value: Any) -> Any:
        return self._mode.from_tensor(value.detach()) if isinstance(value, torch.Tensor) else value


_UNKNOWN = object()


def _drops_by_size(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in ("squeeze", "squeeze_") and len(node.args) + len(node.kwargs) == 1
