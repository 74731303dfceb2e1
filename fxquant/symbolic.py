"""Capture by torch.fx symbolic tracing: flat tensor leaves in, flat tensor leaves out, each node with its origin."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from fxquant.arguments import signature_of
from fxquant.arrival import arrival_of, taken_in
from fxquant.autocasting import autocast_told
from fxquant.constants import constant_of
from fxquant.errors import ExampleInputError, FxQuantError, ResourceError, UntraceableError
from fxquant.graphmodule import build, fetch
from fxquant.leaves import is_leaf_by_default, named_leaves, tell_unused
from fxquant.ledger import Ledger
from fxquant.location import of_frame, of_function, of_traceback
from fxquant.mutations import MadeTensors, watched
from fxquant.origin import mark, scope
from fxquant.program import Program, Stage
from fxquant.proxies import ARITHMETIC, RecordedProxy, StateProxy, is_sizelike
from fxquant.ranks import Ranks
from fxquant.recording import proxy_in, recorded_calls, shadowed_names
from fxquant.request import CaptureRequest
from fxquant.signature import Constant, Leaf, Signature
from fxquant.structure import flatten
from fxquant.untraceable import asserts, untraceable


def capture_symbolic(request: CaptureRequest, ledger: Ledger) -> Program:
    """Trace the model. FXQ210 with the user's line where its Python cannot be followed."""
    model = request.model
    leaf_ids = named_leaves(model, request.leaf_modules)
    signature, example = signature_of(model, request.example_args, request.example_kwargs, request.concrete_args)
    arrival = arrival_of(model)
    signature = replace(signature, cast=tuple(sorted(arrival.cast, key=str)))
    if example is not None:
        example = taken_in(example, [leaf.path for leaf in signature.tensor_leaves], arrival.cast, arrival.home)
    tracer = SymbolicTracer(model, signature, leaf_ids, example, ledger)
    try:
        graph = _traced(tracer, example)
    except UntraceableError:
        if not is_leaf_by_default(model):
            raise
        tracer = SymbolicTracer(model, signature, leaf_ids, example, ledger, is_whole=True)
        graph = _traced(tracer, example)
    _drop_unread(graph)
    graph_module = build(tracer.root, graph, type(model).__name__, ledger)
    _open_rows(graph_module, ledger)
    tell_unused(model, tracer.called, tracer.leaf_ids, tracer.fetched, ledger)
    inputs = signature.inputs
    if tracer.ranks.is_asked:
        ranks = iter([tensor.dim() for tensor in example or ()])
        inputs = tuple(replace(leaf, rank=next(ranks)) if isinstance(leaf, Leaf) else leaf for leaf in inputs)
    final = replace(signature, inputs=inputs, output_structure=tracer.output_structure, outputs=tuple(tracer.outputs))
    return Program(graph_module, Stage.TRACED, final, example_leaves=example, model_name=type(model).__name__)


def _traced(tracer: SymbolicTracer, example: Sequence[torch.Tensor] | None) -> fx.Graph:
    name = type(tracer.model).__name__
    try:
        told = autocast_told(tracer.ledger)
        with recorded_calls(), told, watched(tracer.model), shadowed_names() as shadow:
            tracer.shadow = shadow
            graph = tracer.trace(_Whole(tracer.model) if tracer.is_whole else _Flat(tracer.model))
        tracer.made.check()
        graph._co_fields = {}  # it would say that the model's code stands in this file
        return graph
    except FxQuantError:
        raise
    except RecursionError as error:
        raise ResourceError(
            "FXQ803",
            f"{name} is nested deeper than Python's recursion limit ({sys.getrecursionlimit()}) lets tracing go",
            hint="raise sys.setrecursionlimit(), or name the inner part in leaf_modules=",
            module=tracer.failed_in,
        ) from error
    except Exception as error:
        _check_example_runs(tracer, example)
        raise untraceable(error, module=tracer.failed_in or "", model=name) from error


def _drop_unread(graph: fx.Graph) -> None:
    """Sizes and state that only steered Python (an assertion, a branch on a flag) are no part of the computation."""
    for node in reversed(list(graph.nodes)):
        if (
            not node.users
            and node.op not in ("output", "placeholder")
            and (node.op == "get_attr" or node.target in ARITHMETIC or is_sizelike(node))
        ):
            graph.erase_node(node)


def _check_example_runs(tracer: SymbolicTracer, example: Sequence[torch.Tensor] | None) -> None:
    """A model that fails on its example anyway is told so, rather than that it cannot be traced."""
    if example is None or not arrival_of(tracer.model).is_plain:  # a cast copy fails where forward() says x.half()
        return
    try:
        with torch.no_grad():
            tracer.call_model(copy.deepcopy(tracer.model), [tensor.clone() for tensor in example])
    except Exception as error:
        raise ExampleInputError(
            "FXQ113",
            f"{type(tracer.model).__name__} itself fails on the example inputs: {type(error).__name__}: {error}",
            hint="pass example_inputs that the model can be called with",
            where=of_traceback(error.__traceback__),
        ) from error


class _Flat(nn.Module):
    """The model's attributes and modules, for a tracer that wants a root whose forward() it may choose and mark."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__.update({name: value for name, value in model.__dict__.items() if name != "forward"})
        self._modules, self._parameters, self._buffers = (
            dict(model._modules),
            dict(model._parameters),
            dict(model._buffers),
        )

    def forward(self) -> None:
        """Never run: the tracer brings its own."""


class _Whole(nn.Module):
    """One of torch's own layers that cannot be traced into, such as an LSTM, as the only call of a graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.add_module(type(model).__name__.lower(), model)

    def forward(self) -> None:
        """Never run: the tracer brings its own."""


class SymbolicTracer(fx.Tracer):
    """fx's tracer with flat inputs, leaf rules by identity, and an origin for every node."""

    def __init__(
        self,
        model: nn.Module,
        signature: Signature,
        leaf_ids: frozenset[int],
        example: Sequence[torch.Tensor] | None,
        ledger: Ledger,
        *,
        is_whole: bool = False,
    ) -> None:
        super().__init__(autowrap_functions=(), param_shapes_constant=True)
        self.model, self.signature, self.leaf_ids, self.ledger = model, signature, leaf_ids, ledger
        self.is_whole = is_whole  # the model is called as one layer
        self.output_structure: Any = None
        self.outputs: list[int | Constant] = []
        self.failed_in: str | None = None  # the innermost module whose forward() raised
        self.called: set[int] = set()
        self.shadow: Callable[[dict[str, Any]], None] = lambda space: None
        self.ranks = Ranks(lambda target: fetch(self.root, target), example)
        self.made = MadeTensors()
        self._state_names: dict[int, str] | None = None
        self._states: dict[str, fx.Proxy] = {}

    # What is traced into ------------------------------------------------------------------------------------------

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return id(module) in self.leaf_ids or is_leaf_by_default(module)

    def path_of_module(self, module: nn.Module) -> str:
        """Its dotted name; a module that hides in a plain list, or is made in forward(), is given one."""
        path = (self.submodule_paths or {}).get(module)
        if path is None:
            path = self.get_fresh_qualname("_unregistered")
            self.root._modules[path] = module
            assert self.submodule_paths is not None
            self.submodule_paths.update({m: f"{path}.{n}" if n else path for n, m in module.named_modules()})
            self._state_names = None
            if next(module.parameters(), None) is not None:
                self.ledger.notice(
                    "FXQ226",
                    f"a {type(module).__name__} with parameters is called that is no registered submodule: "
                    f"it is captured as '{path}', with the weights it had while tracing",
                    module=path,
                    hint="keep submodules in attributes or nn.ModuleList, not in plain lists",
                )
        return path

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.ranks.is_running:
            return forward(*args, **kwargs)
        return self._called(m, forward, args, kwargs)

    def _called(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.called.add(id(module))
        self._shadow_globals_of(module)
        try:
            return super().call_module(module, forward, args, kwargs)
        except Exception:
            if self.failed_in is None:
                self.failed_in = self.path_of_module(module)
            raise

    def _shadow_globals_of(self, module: nn.Module) -> None:
        space = getattr(inspect.getattr_static(type(module), "forward"), "__globals__", {})
        if str(space.get("__name__", "torch")).partition(".")[0] != "torch":
            self.shadow(space)

    # Inputs and outputs -------------------------------------------------------------------------------------------

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        leaves = [self.create_proxy("placeholder", leaf.name, (), {}) for leaf in self.signature.tensor_leaves]
        return self.run_forward, [self.root, *leaves]

    def run_forward(self, root: Any, *leaves: fx.Proxy) -> tuple[Any, ...]:
        """The graph's function: flat tensors → the user's arguments → forward() → flat tensors."""
        self._shadow_globals_of(self.model)
        found, self.output_structure = flatten(self.call_model(self.model, leaves))
        results: list[Any] = []
        for leaf in found:
            if isinstance(leaf, (fx.Proxy, torch.Tensor)):
                self.outputs.append(len(results))
                results.append(leaf)
            else:
                _check_is_plain(leaf)
                self.outputs.append(Constant(leaf))
        return tuple(results)

    def call_model(self, model: nn.Module, leaves: Sequence[Any]) -> Any:
        """forward() of a model with these tensor leaves and the constants of the signature."""
        supply = iter(leaves)
        values = [leaf.value if isinstance(leaf, Constant) else next(supply) for leaf in self.signature.inputs]
        bound = self.signature.parameters.bind_partial()
        bound.arguments.update(self.signature.structure.unflatten(values))
        return (model if self.is_whole else model.forward)(*bound.args, **bound.kwargs)

    # Nodes and proxies --------------------------------------------------------------------------------------------

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return RecordedProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, torch.Tensor) and id(a) in self._names_of_state():
            return self._state(a).node
        if isinstance(a, torch.Tensor):
            self.made.remember(a)
        return super().create_arg(a)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, type_expr: Any = None
    ) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, name)
        at = of_frame(sys._getframe(1), stop=_STOP) if kind not in ("placeholder", "output") else None
        mark(node, at=at or of_function(self.model.forward), scope_name=self.scope.module_path)
        return node

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if isinstance(attr_val, torch.Tensor) and not self.ranks.is_running and id(attr_val) in self._names_of_state():
            return self._state(attr_val)
        return attr_val

    def _names_of_state(self) -> dict[int, str]:
        if self._state_names is None:  # one walk, not one for each access
            tensors = (*self.root.named_buffers(), *self.root.named_parameters())
            self._state_names = {id(tensor): name for name, tensor in tensors}
        return self._state_names

    def _state(self, tensor: torch.Tensor) -> fx.Proxy:
        name = self._names_of_state()[id(tensor)]
        if name not in self._states:
            node = self.create_node("get_attr", name, (), {})
            self._states[name] = StateProxy(node, self, tensor)
        return self._states[name]

    # What tracing can be asked for --------------------------------------------------------------------------------

    @property
    def fetched(self) -> tuple[str, ...]:
        """Names of the parameters and buffers that the graph reads by itself."""
        return tuple(self._states)

    def rank_of(self, node: fx.Node) -> int | None:
        """The number of dimensions of a value, where an example tells it."""
        return self.ranks.of(node)

    def constant_of(self, node: fx.Node) -> Any | None:
        """The value of what depends on parameters and buffers alone."""
        return constant_of(node, lambda target: fetch(self.root, target))

    def to_bool(self, obj: fx.Proxy) -> bool:
        constant = self.constant_of(obj.node)
        if constant is not None:
            return bool(constant)
        frame = sys._getframe(1).f_back  # over Proxy.__bool__ to the line that asks
        statement = asserts(frame) if is_sizelike(obj.node) else None
        if statement is None:
            return super().to_bool(obj)
        self.ledger.notice("FXQ219", f"an assertion about sizes is not part of the compiled model: {statement}")
        return True


_STOP = SymbolicTracer.run_forward.__code__


def _check_is_plain(leaf: Any) -> None:
    inner = list(leaf) if isinstance(leaf, (set, frozenset)) else list(getattr(leaf, "__dict__", {}).values())
    if proxy_in(inner) is not None:
        raise UntraceableError(
            "FXQ212",
            f"forward() returns a {type(leaf).__name__} that holds tensors and cannot be taken apart",
            hint="return tuples, dicts or dataclasses, or register the class with torch.utils._pytree",
        )


def _open_rows(graph_module: fx.GraphModule, ledger: Ledger) -> None:
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            target = str(node.target)
            ledger.open(node.name, module=target, op=type(modules[target]).__name__)
        elif node.op in ("call_function", "call_method"):
            ledger.open(node.name, module=scope(node), op=getattr(node.target, "__name__", str(node.target)))
