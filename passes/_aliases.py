"""Which tensors of a float graph may share storage, found from the calls alone; and when each is read last.

It may say "may" too often (the graph then asks at run time, see fxquant.aliasing), never too seldom.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from fxquant.passes._writes import Kind, Write, is_from_torch, words

# What gives a new tensor object that looks into the storage of its first argument.
VIEWS = words(
    "view view_as t T mT H mH transpose permute permute_dims movedim moveaxis swapaxes swapdims adjoint"
    " matrix_H squeeze unsqueeze expand expand_as broadcast_to broadcast_tensors narrow select slice diagonal"
    " linalg_diagonal unfold chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind as_strided"
    " view_as_real view_as_complex real imag conj detach data alias unsafe_chunk unsafe_split"
    " unsafe_split_with_sizes getitem __getitem__ values indices crow_indices col_indices ccol_indices"
    " row_indices _values _indices unflatten slice_inverse select_inverse"
)
# What may give the very same object back, or a view, or a copy.
SAME = words(
    "reshape reshape_as flatten ravel contiguous to float double half bfloat16 int long short char byte bool"
    " type type_as cpu cuda cfloat cdouble chalf to_dense resolve_conj resolve_neg positive pos __pos__ dropout"
    " alpha_dropout feature_alpha_dropout feature_dropout dropout1d dropout2d dropout3d atleast_1d atleast_2d"
    " atleast_3d meshgrid cartesian_prod einsum pixel_shuffle pixel_unshuffle channel_shuffle"
    " native_channel_shuffle rrelu asarray as_tensor requires_grad_ dequantize pin_memory sum_to_size ger inner"
    " tensordot lift_fresh coalesce refine_names rename align_to align_as cast expand_copy nan_to_num"
    " block_diag cov corrcoef chain_matmul multi_dot fake_quantize interpolate upsample pad quantize"
    " squeeze_copy __deepcopy__ combinations"
)
_SAME_MODULES = (
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.Flatten,
    nn.Unflatten,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Sequential,
    nn.ModuleList,
    nn.Upsample,
    nn.RReLU,
)
_NUMBER_METHODS = words(
    "size dim ndimension numel nelement stride storage_offset element_size item tolist is_contiguous"
    " is_floating_point is_complex data_ptr get_device __len__ __bool__ __int__ __float__"
)
_NUMBER_ATTRIBUTES = words(
    "shape ndim dtype device layout is_cuda is_quantized is_sparse requires_grad itemsize nbytes names is_leaf"
)


class Aliases:
    """Tensor objects of a graph as it was traced, in groups that may share storage."""

    def __init__(self, graph_module: fx.GraphModule, writes: Mapping[fx.Node, Write]) -> None:
        self._graph_module = graph_module
        nodes = list(graph_module.graph.nodes)
        self.position = {node: index for index, node in enumerate(nodes)}
        self._numbers: set[fx.Node] = set()
        self._object: dict[fx.Node, fx.Node] = {}
        self._parent: dict[fx.Node, fx.Node] = {}
        self._last_use: dict[fx.Node, int] = {}
        self._may_be_same: set[fx.Node] = set()
        storages: dict[Any, fx.Node] = {}
        for node in nodes:
            self._add(node, writes.get(node), storages)
        for node in nodes:
            for source in node.all_input_nodes:
                self._last_use[self.object_of(source)] = self.position[node]
        self._members: dict[fx.Node, list[fx.Node]] = {}
        for node in nodes:
            if self.object_of(node) is node and node not in self._numbers:
                self._members.setdefault(self._root(node), []).append(node)

    def is_number(self, node: fx.Node) -> bool:
        """A size, a shape, a dtype: no tensor, so nothing can write to it."""
        return node in self._numbers

    def object_of(self, node: fx.Node) -> fx.Node:
        """The node that made the tensor object which this node's result is."""
        while self._object.get(node, node) is not node:
            node = self._object[node]
        return node

    def keep_alive(self, node: fx.Node) -> None:
        """Count the object as read after the end: a buffer."""
        self._last_use[self.object_of(node)] = len(self.position)

    def is_read_after(self, node: fx.Node, position: int) -> bool:
        """Whether anything later than `position` in the graph reads this object."""
        return self._last_use.get(self.object_of(node), -1) > position

    def group_of(self, node: fx.Node) -> list[fx.Node]:
        """The objects that may share storage with this one (itself among them), in graph order."""
        return self._members.get(self._root(self.object_of(node)), [])

    def read_after(self, node: fx.Node, position: int) -> list[fx.Node]:
        """Its aliases, itself not among them, that are older than `position` and are read after it."""
        own = self.object_of(node)
        return [
            other
            for other in self.group_of(node)
            if other is not own and self.position[other] < position and self.is_read_after(other, position)
        ]

    def may_be_same_object(self, node: fx.Node) -> bool:
        """The node may give back the object that it was given, rather than a view of it."""
        return node in self._may_be_same

    def _add(self, node: fx.Node, write: Write | None, storages: dict[Any, fx.Node]) -> None:
        if self._gives_number(node):
            self._numbers.add(node)
        elif write is not None and write.kind is not Kind.UNKNOWN and write.written not in self._numbers:
            self._object[node] = self.object_of(write.written)
        elif node.op == "get_attr":
            self._add_attribute(node, storages)
        else:
            for source in self.sources(node):
                self._parent[self._root(node)] = self._root(self.object_of(source))

    def _add_attribute(self, node: fx.Node, storages: dict[Any, fx.Node]) -> None:
        tensor = attribute_of(self._graph_module, node)
        by_name = storages.setdefault(str(node.target), node)
        if by_name is not node:
            self._object[node] = by_name
        elif isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and tensor.device.type != "meta":
            other = storages.setdefault(tensor.untyped_storage().data_ptr(), node)
            self._parent[self._root(node)] = self._root(other)

    def _root(self, node: fx.Node) -> fx.Node:
        while self._parent.get(node, node) is not node:
            node = self._parent[node]
        return node

    def _gives_number(self, node: fx.Node) -> bool:
        if node.op == "call_method":
            return str(node.target) in _NUMBER_METHODS
        if node.op != "call_function":
            return False
        if node.target is getattr and node.args[1] in _NUMBER_ATTRIBUTES:
            return True
        sources = node.all_input_nodes
        if node.target is operator.getitem and node.args[0] in self._numbers:
            return True
        is_plain = getattr(node.target, "__module__", "") in ("_operator", "builtins", "math")
        return is_plain and bool(sources) and all(source in self._numbers for source in sources)

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """The inputs whose storage this node's result may look into."""
        tensors = [source for source in node.all_input_nodes if source not in self._numbers]
        if not tensors or node.op == "output":
            return []
        if self._may_pass_on(node):
            self._may_be_same.add(node)
            return tensors
        if self._name_of(node) not in VIEWS:
            return []
        return [node.args[0]] if node.args and isinstance(node.args[0], fx.Node) else tensors

    def _name_of(self, node: fx.Node) -> str:
        if node.op == "call_method":
            return str(node.target)
        if node.target is getattr:
            return str(node.args[1])
        return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""

    def _may_pass_on(self, node: fx.Node) -> bool:
        """Whether the call may give back what it was given, as it is or inside something; always so for strangers."""
        name = self._name_of(node)
        if node.op == "call_module":
            module = self._graph_module.get_submodule(str(node.target))
            is_torchs = type(module).__module__.startswith("torch.nn.modules")
            return not is_torchs or isinstance(module, _SAME_MODULES)
        if node.op == "call_method" or node.target is getattr:
            return name in SAME or not hasattr(torch.Tensor, name)
        if getattr(node.target, "__module__", "") == "_operator":  # (a, b) + (c,) holds all three
            return name in ("pos", "add", "iadd") and (name == "pos" or _holds_a_tuple(node.args))
        is_op = isinstance(node.target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))
        return is_op or not is_from_torch(node.target) or name in SAME


def _holds_a_tuple(args: tuple[Any, ...]) -> bool:
    return any(isinstance(value, (tuple, list)) for value in args)


def attribute_of(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    """The object that a get_attr node fetches."""
    found: Any = graph_module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found
