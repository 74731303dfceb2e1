"""Proxies that record what torch.fx's own drop or refuse: `y[i] = v`, `y += 1`, and what is written to buffers.

torch.fx turns `y += 1` into a new value, so that an alias of y keeps the old one; it refuses `y[i] = v`; and it runs
`self.steps.add_(1)` once, while tracing. Here each becomes a node, for the functionalize pass to make pure.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import Attribute

from fxquant.errors import MutationError
from fxquant.location import innermost

_AUGMENTED = "iadd iand ifloordiv ilshift imatmul imod imul ior ipow irshift isub itruediv ixor"
AUGMENTED: dict[str, Callable[..., Any]] = {f"__{name}__": getattr(operator, name) for name in _AUGMENTED.split()}
_OWN = frozenset({"node", "tracer", "root", "attr", "_node", "tensor"})


class TensorProxy(fx.Proxy):
    """A proxy on which item assignment and augmented assignment are nodes."""

    def __getattr__(self, name: str) -> Attribute:
        return _AttributeOf(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        elif not (isinstance(value, fx.Proxy) and _is_augmented(value.node, self.node, name)):
            raise _refusal(
                f"forward() assigns '{name}' of the tensor '{self.node.name}', which a graph cannot hold",
                hint=f"write the values in place instead: tensor.copy_(new) where it says tensor.{name} = new",
            )

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _augmented(function: Callable[..., Any]) -> Callable[[TensorProxy, Any], fx.Proxy]:
    def assign(self: TensorProxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return assign


for _name, _function in AUGMENTED.items():
    setattr(TensorProxy, _name, _augmented(_function))


class _AttributeOf(Attribute, TensorProxy):  # type: ignore[misc]  # Attribute makes `node` a property
    """`y.data` or `y.add_`: a node as soon as something other than a call is done with it."""


class RegisteredProxy(TensorProxy):
    """A parameter or buffer: what is known of it before the model runs is a plain value, not a node."""

    def __init__(self, node: fx.Node, tracer: Any, tensor: torch.Tensor) -> None:
        super().__init__(node, tracer)
        self.tensor = tensor

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "ndim", "dtype", "device", "requires_grad"):
            return getattr(self._unwritten(metadata=True), name)
        if name in ("dim", "numel", "nelement", "is_floating_point", "size", "element_size"):
            return getattr(self._unwritten(metadata=True), name)
        if name in ("item", "tolist"):
            return getattr(self._unwritten(), name)
        return super().__getattr__(name)

    def __bool__(self) -> bool:
        return bool(self._unwritten())

    def __int__(self) -> int:
        return int(self._unwritten())

    def __float__(self) -> float:
        return float(self._unwritten())

    def __index__(self) -> int:
        return operator.index(self._unwritten())

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[Any]:
        return (operator.getitem(self, index) for index in range(len(self.tensor)))  # type: ignore[call-overload]

    def _unwritten(self, *, metadata: bool = False) -> torch.Tensor:
        """The tensor as it is now, which is what forward() would see as long as it has not written to it."""
        writers = [] if metadata else [user for user in self.node.users if _is_write(user)]
        if writers:
            raise _refusal(
                f"forward() decides by the value of '{self.node.target}' after writing to it ({writers[0].name})",
                hint="fix the decision before compiling, or keep the module a leaf with leaf_modules=",
            )
        return self.tensor


class MutationTracer(fx.Tracer):
    """A tracer whose proxies record writes, and which refuses the writes that it sees happen while it traces."""

    _names: dict[int, str]
    _constants: dict[int, tuple[torch.Tensor, int]]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return TensorProxy(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        name = self._names.get(id(attr_val)) if isinstance(attr_val, torch.Tensor) else None
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy(
                "get_attr", name, (), {}, proxy_factory_fn=lambda node: RegisteredProxy(node, self, attr_val)
            )
        return parameter_proxy_cache[name]

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and not isinstance(a, nn.Parameter) and not a.is_inference():
            self._constants.setdefault(id(a), (a, a._version))
        return super().create_arg(a)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        registered = (*root.named_parameters(), *root.named_buffers())
        self._names, self._constants = {id(tensor): name for name, tensor in registered}, {}
        attributes = dict(_plain_tensors(root))
        versions = {name: tensor._version for name, tensor in attributes.items()}
        with _assignments_watched():
            graph = super().trace(root, concrete_args)
        for name, tensor in attributes.items():
            if tensor._version != versions[name]:
                raise _refusal(
                    f"forward() writes in place to the tensor '{name}', which is neither parameter nor buffer",
                    hint=f"register it: self.register_buffer({name.rpartition('.')[2]!r}, tensor)",
                    here=False,
                )
        if any(tensor._version != version for tensor, version in self._constants.values()):
            raise _refusal(
                "forward() writes in place to a tensor that it made itself, after using it with an input",
                hint="make a new tensor (out-of-place) where it is written the second time",
                here=False,
            )
        return graph


def _plain_tensors(root: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that are attributes of a module without being registered."""
    for prefix, module in root.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and not value.is_inference():
                yield (f"{prefix}.{name}" if prefix else name), value


@contextmanager
def _assignments_watched() -> Iterator[None]:
    """`self.steps += 1` assigns the buffer to itself: no news. Any other proxy in a buffer's place is refused."""
    original = nn.Module.__setattr__

    def assign(module: nn.Module, name: str, value: Any) -> None:
        registered = module._buffers.get(name, module._parameters.get(name)) if isinstance(value, fx.Proxy) else None
        if registered is None:
            original(module, name, value)
        elif not _is_augmented_attribute(value.node, name):
            raise _refusal(
                f"forward() puts a new tensor in the place of '{name}' of {type(module).__name__}",
                hint=f"write into it instead: self.{name}.copy_(new)",
            )

    nn.Module.__setattr__ = assign  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]


def _is_write(node: fx.Node) -> bool:
    if node.op == "call_method":
        name = str(node.target)
        return (name.endswith("_") and not name.endswith("__")) or name in AUGMENTED or name == "__setitem__"
    return node.op == "call_function" and node.target in (*AUGMENTED.values(), operator.setitem)


def _is_augmented(node: fx.Node, base: fx.Node, name: str) -> bool:
    """`y.data += 1` ends with y.data = (the node of that addition)."""
    if node.target not in AUGMENTED.values() or not isinstance(node.args[0], fx.Node):
        return False
    target = node.args[0]
    return target.target is getattr and target.args[0] is base and target.args[1] == name


def _is_augmented_attribute(node: fx.Node, name: str) -> bool:
    while _is_write(node) and isinstance(node.args[0], fx.Node):  # each write gives back what it wrote to
        node = node.args[0]
    return node.op == "get_attr" and str(node.target).rpartition(".")[2] == name


def _refusal(message: str, *, hint: str, here: bool = True) -> MutationError:
    stack = [(frame.filename, frame.lineno or 0, frame.name) for frame in traceback.extract_stack(limit=60)]
    return MutationError("FXQ211", message, hint=hint, where=innermost(stack) if here else None)
