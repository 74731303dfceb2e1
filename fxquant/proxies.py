"""The stand-ins for tensors while a model is traced: what fx's own proxies drop or cannot answer, these record."""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxquant.mutations import is_augmented, refuse_assignment

if TYPE_CHECKING:
    from fxquant.symbolic import SymbolicTracer

_OWN = frozenset({"node", "tracer", "root", "attr", "_node", "tensor"})  # of the proxies themselves

_SIZE_METHODS = frozenset({"size", "dim", "numel", "nelement", "ndimension", "stride", "__len__"})
_SIZE_ATTRIBUTES = frozenset({"shape", "ndim", "device", "dtype", "itemsize", "nbytes"})
ARITHMETIC = frozenset((
    operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod, operator.neg,
    operator.pow, operator.getitem, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
))  # fmt: skip


def is_sizelike(node: fx.Node) -> bool:
    """Whether a value is a size, a shape, or computed from such: plain Python numbers when the graph runs."""
    if node.op == "call_method":
        return node.target in _SIZE_METHODS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in _SIZE_ATTRIBUTES
    return node.target in ARITHMETIC and all(is_sizelike(source) for source in node.all_input_nodes)


class RecordedProxy(fx.Proxy):
    """A proxy that also records item assignment and augmented assignment, and knows its rank where it can be known.

    fx turns `y += 1` into `y = y + 1`, which is wrong where another name or a view shares y's memory.
    """

    tracer: SymbolicTracer

    def __getattr__(self, name: str) -> Any:
        if name == "ndim":
            rank = self.tracer.rank_of(self.node)
            if rank is not None:
                return rank
        return _RecordedAttribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        elif not (isinstance(value, fx.Proxy) and is_augmented(value.node, self.node, name)):
            raise refuse_assignment(self.node.name, name)

    def dim(self) -> Any:
        """The number of dimensions: a number where an example input tells it, else recorded."""
        rank = self.tracer.rank_of(self.node)
        return self.tracer.create_proxy("call_method", "dim", (self,), {}) if rank is None else rank

    def __len__(self) -> int:
        length = self._length_of_shape()
        if length is None:
            raise TypeError("len() of a traced tensor")
        return length

    def __iter__(self) -> Iterator[fx.Proxy]:
        length = _names_to_unpack_into(sys._getframe(1))
        length = self._length_of_shape() if length is None else length
        if length is None:
            return iter(self.tracer.iter(self))  # raises: the number of turns is not known
        return (operator.getitem(self, index) for index in range(length))

    def _length_of_shape(self) -> int | None:
        return self._length(self.node)

    def _length(self, value: Any) -> int | None:
        """How many sizes a shape has, or what is cut from shapes and put together: `x.size()[:-1] + (heads, -1)`."""
        if isinstance(value, (tuple, list)):
            return len(value)
        if not isinstance(value, fx.Node):
            return None
        is_shape = value.op == "call_method" and value.target == "size" and len(value.args) == 1 and not value.kwargs
        if is_shape or (value.target is getattr and value.args[1] == "shape"):
            return self.tracer.rank_of(value.all_input_nodes[0])
        if value.target is operator.getitem and isinstance(value.args[1], slice):
            whole, cut = self._length(value.args[0]), value.args[1]
            is_plain = all(isinstance(edge, (int, type(None))) for edge in (cut.start, cut.stop, cut.step))
            return len(range(whole)[cut]) if whole is not None and is_plain else None
        if value.target is operator.add and len(value.args) == 2:
            parts = [self._length(part) for part in value.args]
            return sum(parts) if None not in parts else None  # type: ignore[arg-type]
        return None

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _names_to_unpack_into(frame: FrameType) -> int | None:
    """n, when the frame is at `a, b, ... = value` with n plain names."""
    for instruction in dis.get_instructions(frame.f_code):
        if instruction.offset == frame.f_lasti:
            return int(instruction.argval) if instruction.opname == "UNPACK_SEQUENCE" else None
    return None


class _RecordedAttribute(RecordedProxy):
    """`x.shape`, `x.relu` ...: becomes a node when it is used as a value, a method call when it is called."""

    def __init__(self, root: RecordedProxy, name: str) -> None:
        self.root, self.attr, self.tracer = root, name, root.tracer
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {}).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


class StateProxy(RecordedProxy):
    """A parameter or buffer of the model: its shape, dtype and device are constants, a flag may steer code."""

    def __init__(self, node: fx.Node, tracer: SymbolicTracer, tensor: torch.Tensor) -> None:
        super().__init__(node, tracer)
        self.tensor = tensor

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_quantized", "layout", "itemsize"):
            return getattr(self.tensor, name)
        return _RecordedAttribute(self, name)

    def size(self, dim: int | None = None) -> Any:
        """As of the tensor itself."""
        return self.tensor.size() if dim is None else self.tensor.size(dim)

    def dim(self) -> int:
        """As of the tensor itself."""
        return self.tensor.dim()

    def numel(self) -> int:
        """As of the tensor itself."""
        return self.tensor.numel()

    nelement = numel

    def __int__(self) -> int:
        return int(self._value("int()"))

    def __float__(self) -> float:
        return float(self._value("float()"))

    def __index__(self) -> int:
        return operator.index(self._value("__index__"))

    def item(self) -> Any:
        """As of the tensor itself: a number in a buffer steers Python, it is not computed with."""
        return self._value("int()").item()

    def _value(self, what: str) -> torch.Tensor:
        """The tensor, unless forward() writes to it: then its value at run time is not the one it has now."""
        if self.tracer.constant_of(self.node) is None:
            raise TypeError(f"{what} argument is a buffer that forward() writes to")
        return self.tensor

    def is_floating_point(self) -> bool:
        """As of the tensor itself."""
        return self.tensor.is_floating_point()

    def is_complex(self) -> bool:
        """As of the tensor itself."""
        return self.tensor.is_complex()

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[fx.Proxy]:
        return (operator.getitem(self, index) for index in range(len(self.tensor)))


def _in_place(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    in_place, out_of_place = getattr(operator, f"i{name}"), getattr(operator, _PLAIN.get(name, name))

    def record(self: fx.Proxy, other: Any) -> fx.Proxy:
        target = out_of_place if is_sizelike(self.node) else in_place  # numbers are immutable: the name is rebound
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return record


_PLAIN = {"and": "and_", "or": "or_"}

for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
):
    setattr(RecordedProxy, f"__i{_name}__", _in_place(_name))
