"""functionalize: in-place calls become pure ones whose new value every later reader sees, through every alias."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import fx, nn

from fxquant.aliasing import rewritten, store
from fxquant.casts import was_copy
from fxquant.errors import MutationError, PassError
from fxquant.ledger import Ledger
from fxquant.origin import carry, site_of, where
from fxquant.passes._aliases import Aliases, attribute_of
from fxquant.passes._dead_code import drop_dead_code
from fxquant.passes._dtypes import changed_dtypes
from fxquant.passes._writes import OPERATORS, Kind, Write, write_of
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage


@dataclass(frozen=True)
class Functionalize(Pass):
    """No node writes to its inputs any more; the numbers are bit-equal and the caller's tensors stay as they are.

        y = fc(x); v = y[:, :4]; v.mul_(2); return relu(y)
        →  y = fc(x); v = y[:, :4]; new = v * 2; (y1,) = rewritten(v, new, (y,)); return relu(y1)

    Without an alias that is read later, `y.add_(1)` is simply `y1 = y + 1`. A buffer that forward() changes keeps its
    new value by one `store` at the end of the graph. What has no pure form is refused: FXQ211.
    """

    name: ClassVar[str] = "functionalize"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED, Stage.PLANNED})

    def run(self, program: Program, ledger: Ledger) -> Program:
        _drop_self_stores(program.graph_module, ledger)
        writes = _writes(program.graph_module)
        aliases = Aliases(program.graph_module, writes)
        for node, write in writes.items():
            _check(node, write, aliases, program.graph_module)
        if writes:
            _Rewrite(program, ledger, writes, aliases).run()
        for node in program.graph.nodes:  # what is left of them counts with plain numbers: n = x.size(0); n += 1
            if node.op == "call_function" and node.target in OPERATORS:
                node.target = OPERATORS[node.target]
        drop_dead_code(program)  # a dead reader would keep two layers from being fused
        return program

    def verify(self, program: Program) -> None:
        left = [node.name for node in _writes(program.graph_module)]
        if left:
            raise PassError("FXQ403", f"calls that write in place are left: {', '.join(left)}", node=left[0])


def _writes(graph_module: fx.GraphModule) -> dict[fx.Node, Write]:
    found = ((node, write_of(node, graph_module)) for node in graph_module.graph.nodes)
    writes = {node: write for node, write in found if write is not None}
    aliases = Aliases(graph_module, writes)
    return {node: write for node, write in writes.items() if not aliases.is_number(write.written)}


def _drop_self_stores(graph_module: fx.GraphModule, ledger: Ledger) -> None:
    """`y[0] += 1` is v = y[0]; v += 1; y[0] = v. The last step writes a view to where it lies already."""
    writes = _writes(graph_module)
    aliases = Aliases(graph_module, writes)
    reshaped = {aliases.object_of(write.written) for write in writes.values() if write.kind is Kind.METADATA}
    for node in [node for node in writes if node.target is operator.setitem]:
        base, index, value = cast(tuple[fx.Node, Any, Any], node.args)
        view = aliases.object_of(value) if isinstance(value, fx.Node) else None
        if view is None or view.target is not operator.getitem or not _is_basic(index) or view.args[1] != index:
            continue
        own = aliases.object_of(base)
        if aliases.object_of(view.all_input_nodes[0]) is own and not {own, view} & reshaped:
            ledger.settle(node, "removed", "it stores a view of a tensor to where the view lies already")
            graph_module.graph.erase_node(node)


def _is_basic(index: Any) -> bool:
    """Made of ints, slices, None and ..., which give a view: a list, a mask or a tensor gives a copy."""
    parts = index if isinstance(index, tuple) else (index,)
    plain = (int, type(None), type(...))
    return all(
        all(isinstance(edge, plain) for edge in (part.start, part.stop, part.step))
        if isinstance(part, slice)
        else isinstance(part, plain) and not isinstance(part, bool)
        for part in parts
    )


def _check(node: fx.Node, write: Write, aliases: Aliases, graph_module: fx.GraphModule) -> None:
    """FXQ211 where the write has no pure form; before anything is changed."""
    if write.kind is Kind.UNKNOWN:
        raise _refusal(node, "has no out-of-place form that fxquant knows", "write it without changing its input")
    group = aliases.group_of(write.written)
    if write.kind is Kind.METADATA:
        own = aliases.object_of(write.written)
        others = aliases.read_after(write.written, aliases.position[node])
        if others and any(map(aliases.may_be_same_object, (own, *others))):
            raise _refusal(
                node,
                f"changes the shape of a tensor that '{others[0].name}' may be too",
                f"use the out-of-place {str(node.target).rstrip('_')}()",
            )
    casts = [other for other in group if was_copy(other)]
    if casts and aliases.read_after(write.written, aliases.position[node]):
        raise _refusal(
            node,
            f"writes to a tensor that '{casts[0].name}' may have copied before the model was cast to float32",
            "write it out of place, y = y + 1 for y += 1",
        )
    parameters = [other for other in group if other.op == "get_attr" and _is_parameter(other, graph_module)]
    if write.kind is Kind.DATA and parameters:
        raise _refusal(
            node,
            f"writes to the parameter '{parameters[0].target}', whose value must be fixed to be quantized",
            "compute a new tensor from the parameter instead, or register it as a buffer",
        )


def _is_parameter(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    return isinstance(attribute_of(graph_module, node), nn.Parameter)


def _refusal(node: fx.Node, why: str, hint: str) -> MutationError:
    called = getattr(node.target, "__name__", str(node.target))
    return MutationError("FXQ211", f"the in-place call '{called}' {why}", hint=hint, node=node.name, where=where(node))


class _Rewrite:
    """One walk over the graph. `_current`: for each tensor object that was written to, the node of its value now."""

    def __init__(self, program: Program, ledger: Ledger, writes: dict[fx.Node, Write], aliases: Aliases) -> None:
        self._program, self._ledger, self._writes, self._aliases = program, ledger, writes, aliases
        self._graph = program.graph
        self._current: dict[fx.Node, fx.Node] = {}
        self._old_values: dict[fx.Node, fx.Node] = {}  # pure form of a write → the value that it replaces
        self._modules: dict[int, nn.Module] = {}

    def run(self) -> None:
        buffers = [node for node in self._graph.nodes if node.op == "get_attr" and _is_kept(node)]
        for buffer in buffers:
            self._aliases.keep_alive(buffer)
        inputs = {node for node in self._graph.nodes if node.op == "placeholder"}
        fetched = [node for node in self._graph.nodes if node.op == "get_attr" and node.users]
        for node in list(self._graph.nodes):
            self._visit(node)
        self._cast_back()
        self._store(buffers)
        for node in fetched:
            if not node.users:
                self._graph.erase_node(node)
        self._tell_inputs(inputs)

    def _visit(self, node: fx.Node) -> None:
        write = self._writes.get(node)
        written = None if write is None else self._now(write.written)
        node.args = fx.map_arg(node.args, self._now)
        node.kwargs = fx.map_arg(node.kwargs, self._now)
        if write is None or written is None:
            return
        own = self._aliases.object_of(write.written)
        if write.kind is Kind.FLAG:
            self._current.setdefault(own, written)
            self._ledger.settle(node, "removed", "it sets a flag of the tensor, which a graph does not compute with")
            node.replace_all_uses_with(written)
            self._graph.erase_node(node)
            return
        if node.op == "call_module":
            self._replace_module(str(node.target))
        write.purify(node)
        if write.kind is Kind.METADATA:
            self._current[own] = node
            return
        self._assign(own, written, node, self._cast(node, written) if write.changes_dtype else node)

    def _now(self, node: fx.Node) -> fx.Node:
        own = self._aliases.object_of(node)
        return self._current.get(own, own if node in self._writes else node)

    def _assign(self, own: fx.Node, old: fx.Node, node: fx.Node, value: fx.Node) -> None:
        """From here on the object has this value, and each alias that is read later sees it."""
        self._old_values[node] = old
        position = self._aliases.position[node]
        others = self._aliases.read_after(own, position)
        if not others:
            self._current[own] = value
            return
        members = [*([own] if self._aliases.is_read_after(own, position) else []), *others]
        with self._graph.inserting_after(value):
            news = self._graph.call_function(rewritten, (old, value, tuple(map(self._now, members))))
        carry(news, node)
        with self._graph.inserting_after(news):
            for index, member in reversed(list(enumerate(members))):
                item = carry(self._graph.call_function(operator.getitem, (news, index)), node)
                self._current[member] = item

    def _cast(self, node: fx.Node, like: fx.Node) -> fx.Node:
        with self._graph.inserting_after(node):
            return carry(self._graph.call_method("type_as", (node, like)), node)

    def _cast_back(self) -> None:
        """In place keeps the dtype where out of place promotes it: float32 += float64."""
        mixed = {node: old for node, old in self._old_values.items() if len(node.all_input_nodes) > 1}
        for node, old in changed_dtypes(self._program, mixed).items():
            readers = list(node.users)
            cast = self._cast(node, old)
            for reader in readers:
                reader.replace_input_with(node, cast)

    def _replace_module(self, name: str) -> None:
        """All call sites of the module are rewritten, each in its turn; so all of them get the one new module."""
        module = self._program.graph_module.get_submodule(name)
        if getattr(module, "inplace", False) is not True:
            return
        if id(module) not in self._modules:
            fresh = copy.copy(module)
            setattr(fresh, "inplace", False)  # noqa: B010 - nn.Module is typed to hold tensors and modules only
            self._modules[id(module)] = fresh
        self._program.graph_module.set_submodule(name, self._modules[id(module)])

    def _store(self, buffers: Iterable[fx.Node]) -> None:
        """At the end, when nothing reads the old values any more."""
        output = next(node for node in reversed(self._graph.nodes) if node.op == "output")
        for buffer in buffers:
            value = self._current.get(buffer, buffer)
            if value is buffer:
                continue
            with self._graph.inserting_before(output):
                carry(self._graph.call_function(store, (buffer, value)), value)
            self._ledger.notice(
                "FXQ215",
                f"forward() changes the buffer '{buffer.target}'; the compiled model keeps doing so on each call",
                module=str(buffer.target).rpartition(".")[0],
                hint="calibration calls the model too: set the buffer again afterwards if its start value matters",
            )

    def _tell_inputs(self, inputs: set[fx.Node]) -> None:
        for node, write in self._writes.items():
            touched = [other for other in self._aliases.group_of(write.written) if other in inputs]
            if write.kind is Kind.DATA and touched:
                place = where(node) if node in self._old_values else None
                self._ledger.notice(
                    "FXQ214",
                    f"forward() writes in place to its input '{touched[0].target}' ({site_of(node)}"
                    + (f", line {place.line}" if place is not None else "")
                    + "); the compiled model computes the same and leaves the caller's tensor as it was",
                )


def _is_kept(node: fx.Node) -> bool:
    """A tensor of the model, rather than one that forward() makes anew on each call."""
    return not str(node.target).startswith("_tensor_constant")
