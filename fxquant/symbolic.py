"""Capture by torch.fx symbolic tracing: flat tensor leaves in, flat tensor leaves out, each node with its origin."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxquant.errors import MutationError, UntraceableError
from fxquant.ledger import Ledger
from fxquant.location import innermost, of_traceback
from fxquant.origin import mark, scope
from fxquant.program import Program, Stage
from fxquant.proxies import MutationTracer
from fxquant.signature import Constant, Leaf, Signature, bind
from fxquant.structure import flatten

if TYPE_CHECKING:
    from fxquant.capture import CaptureRequest


class _Given:
    """Stands for a required argument whose value is not known: it is taken to be one tensor."""


def capture_symbolic(request: CaptureRequest, ledger: Ledger) -> Program:
    """Trace the model. FXQ210 with the user's line where its Python cannot be followed."""
    signature, example = _signature(request)
    tracer = _Tracer(signature, request.leaf_modules)
    try:
        root = _Flat(request.model)
        graph = tracer.trace(root)
    except MutationError:
        raise
    except Exception as error:
        raise _untraceable(error, tracer) from error
    graph_module = fx.GraphModule(root, graph, class_name=type(request.model).__name__)
    graph_module.eval()
    _open_rows(graph_module, ledger)
    outputs = replace(signature, output_structure=tracer.output_structure, outputs=tuple(tracer.outputs))
    return Program(graph_module, Stage.TRACED, outputs, example_leaves=example)


class _Flat(nn.Module):
    """The model under its own module names, for a tracer that wants a root whose forward() it may choose."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self.__dict__.update({name: value for name, value in vars(model).items() if isinstance(value, torch.Tensor)})

    def forward(self) -> None:
        """Never run: the tracer brings its own."""


class _Tracer(MutationTracer):
    def __init__(self, signature: Signature, leaf_modules: Sequence[str | type[nn.Module]]) -> None:
        super().__init__(autowrap_functions=(), param_shapes_constant=True)
        self.signature = signature
        self.leaf_names = {leaf for leaf in leaf_modules if isinstance(leaf, str)}
        self.leaf_types = tuple(leaf for leaf in leaf_modules if isinstance(leaf, type))
        self.output_structure: Any = None
        self.outputs: list[int | Constant] = []

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        if qualified_name in self.leaf_names or isinstance(module, self.leaf_types):
            return True
        return bool(super().is_leaf_module(module, qualified_name))

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        leaves = [self.create_proxy("placeholder", leaf.name, (), {}) for leaf in self.signature.tensor_leaves]
        return self._call, [self.root, *leaves]

    def _call(self, root: Any, *leaves: fx.Proxy) -> tuple[Any, ...]:
        supply = iter(leaves)
        values = [leaf.value if isinstance(leaf, Constant) else next(supply) for leaf in self.signature.inputs]
        bound = self.signature.parameters.bind_partial()
        bound.arguments.update(self.signature.structure.unflatten(values))
        result = root.model.forward(*bound.args, **bound.kwargs)
        found, self.output_structure = flatten(result)
        results: list[Any] = []
        for leaf in found:
            if isinstance(leaf, (fx.Proxy, torch.Tensor)):
                self.outputs.append(len(results))
                results.append(leaf)
            else:
                self.outputs.append(Constant(leaf))
        return tuple(results)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        stack = [(frame.filename, frame.lineno or 0, frame.name) for frame in traceback.extract_stack(limit=60)]
        mark(node, at=innermost(stack), scope_name=self.scope.module_path)
        return node


def _signature(request: CaptureRequest) -> tuple[Signature, tuple[torch.Tensor, ...] | None]:
    parameters = inspect.signature(request.model.forward)
    fixed = dict(request.concrete_args or {})
    if request.example_args is None and request.example_kwargs is None:
        required = [p for p in parameters.parameters.values() if p.default is p.empty]
        given = [p for p in required if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in fixed]
        bound = parameters.bind_partial()
        bound.arguments.update({parameter.name: _Given() for parameter in given} | fixed)
        bound.apply_defaults()
    else:
        bound = bind(parameters, request.example_args or (), {**(request.example_kwargs or {})})
        bound.arguments.update(fixed)
    values, structure = flatten(dict(bound.arguments))
    paths = _paths(bound.arguments)
    is_tensor = [isinstance(value, (torch.Tensor, _Given)) for value in values]
    inputs = tuple(
        Leaf(_name_of(path), path) if tensor else Constant(value)
        for path, value, tensor in zip(paths, values, is_tensor, strict=True)
    )
    tensors = tuple(value for value in values if isinstance(value, torch.Tensor))
    known = len(tensors) == sum(is_tensor) and bool(tensors)
    return Signature(parameters, structure, inputs), tensors if known else None


def _paths(arguments: Mapping[str, Any]) -> list[str]:
    return [
        name if size == 1 and not isinstance(value, (tuple, list, dict)) else f"{name}_{index}"
        for name, value in arguments.items()
        for size in [len(flatten(value)[0])]
        for index in range(size)
    ]


def _name_of(path: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in path)


def _open_rows(graph_module: fx.GraphModule, ledger: Ledger) -> None:
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            target = str(node.target)
            ledger.open(node.name, module=target, op=type(graph_module.get_submodule(target)).__name__)
        elif node.op in ("call_function", "call_method"):
            ledger.open(node.name, module=scope(node), op=getattr(node.target, "__name__", str(node.target)))


def _untraceable(error: Exception, tracer: _Tracer) -> UntraceableError:
    module = tracer.scope.module_path
    place = f"module '{module}'" if module else "the model itself"
    return UntraceableError(
        "FXQ210",
        f"symbolic tracing stops in {place}: {error}",
        hint="name the module in leaf_modules=, fix the argument with concrete_args=, or keep it out of the graph",
        module=module,
        where=of_traceback(error.__traceback__),
    )
