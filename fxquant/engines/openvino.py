"""OpenVINO as an engine: the canonical graph through its PyTorch front end, compiled for the shapes of the example.

A shape that was not seen yet is compiled for when it comes (a static graph is the faster one); after a few of them one
graph with open shapes takes the rest. Sums of codes are exact; float layers run in bfloat16 where the CPU has it.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from functools import cache
from typing import Any

import openvino as ov
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from torch import Tensor, fx

from fxquant.engines._openvino_export import decomposed
from fxquant.engines._openvino_ops import extensions
from fxquant.engines._openvino_session import Session, plain
from fxquant.engines._openvino_threads import on_fewest_threads
from fxquant.engines.engine import EngineModule, EngineRefusal, widened
from fxquant.engines.exportable import canonical_name

MOST_SHAPES = 4  # static graphs that are kept; each holds its own packed weights
Shapes = tuple[tuple[int, ...], ...]


def build(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int) -> EngineModule:
    """The engine for this graph, ready for inputs like `leaves`. EngineRefusal where OpenVINO cannot run it."""
    return OpenVINOModule(canonical, leaves, threads)


def to_model(
    canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, is_dynamic: bool = False, has_codes: bool = False
) -> ov.Model:
    """OpenVINO's model of the graph, for the shapes of `leaves` or open ones. EngineRefusal where there is none.

    `has_codes`: LSTMs on codes, which mean what they should on int8 kernels only (see _openvino_ops).
    """
    graph_module = decomposed(canonical, leaves, is_dynamic=is_dynamic, has_codes=has_codes)
    try:
        model = _converted(graph_module)
        shapes = _open_shapes(graph_module) if is_dynamic else [list(leaf.shape) for leaf in leaves]
        model.reshape(dict(zip(model.inputs, map(ov.PartialShape, shapes), strict=True)))
    except Exception as error:  # of any kind: the front end raises C++ exceptions under several names
        raise _refusal(error, graph_module) from error
    _name(model, graph_module)
    return model


def _converted(graph_module: fx.GraphModule) -> ov.Model:
    """Straight through the front end: `openvino.convert_model` takes three times as long, and reports its use."""
    front_end = FrontEndManager().load_by_framework("pytorch")
    for extension in extensions(graph_module):
        front_end.add_extension(extension)
    decoder = TorchFXPythonDecoder(graph_module, dynamic_shapes=True)  # held until it was read to the end
    return front_end.convert(front_end.load(decoder))


def compiled(model: ov.Model, leaves: tuple[Tensor, ...], threads: int, **options: Any) -> Session:
    """The model on this CPU, for inputs like `leaves`: one request at a time has all the threads."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, **options}
    try:
        return Session(_core().compile_model(model, "CPU", settings), leaves)
    except RuntimeError as error:
        raise EngineRefusal(f"OpenVINO does not compile it: {_telling_line(error)}", _named_in(str(error))) from error


def runs_on_codes(session: Session) -> bool:
    """Do all recurrent kernels that were written on codes run on them?"""
    return all(precision == "int8" for precision in session.precisions_of("lstm_codes_sequence"))


@cache
def _core() -> ov.Core:
    """One for the whole process, which never ends.

    The CPU plugin gives the thread that loads it a stack for signals, and unmaps it with the last Core. Where another
    thread ends that one, the next signal (Ctrl-C, a timer) ends the process.
    """
    return ov.Core()


class OpenVINOModule(EngineModule):
    """The graph on OpenVINO. Calls from several threads at once are served, each by a request of its own."""

    engine = "openvino"

    def __init__(self, canonical: fx.GraphModule, leaves: tuple[Tensor, ...], threads: int) -> None:
        super().__init__()
        self.__dict__["_canonical"] = canonical  # not a child: its tensors are the program's
        self._threads, self._lock = threads, threading.RLock()
        self._sessions: OrderedDict[Shapes, Session] = OrderedDict()
        self._open: Session | None = None  # with open shapes
        self._checked: set[Shapes] = set()  # shapes that the graph takes
        self._dtypes = tuple(leaf.dtype for leaf in leaves)
        self._first = self._compiled(leaves)
        self._sessions[_shapes(leaves)] = self._first
        self.at_once, self.float_type = self._first, self._first.float_type

    def rows(self) -> dict[str, str]:
        """What each canonical node that runs computes in, read off the compiled graph."""
        return self._first.precisions()

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """The outputs for these inputs. RuntimeError where the graph refuses them."""
        session = self._sessions.get(_shapes(leaves))
        if session is None:
            if any(leaf.numel() == 0 for leaf in leaves):  # after one of these, open shapes keep giving empty results
                return tuple(self.__dict__["_canonical"].forward(*leaves))
            session = self._for_another_shape(leaves)
        results = session(self._like_first(leaves))
        if results is None:
            raise RuntimeError(f"OpenVINO runs on the CPU, an input is on {leaves[0].device}")
        return results

    def _for_another_shape(self, leaves: tuple[Tensor, ...]) -> Session:
        given, shapes = self._like_first(leaves), _shapes(leaves)
        with self._lock:
            if shapes in self._sessions:
                return self._sessions[shapes]
            self._check(given, shapes)
            try:
                return self._compiled_for(given, shapes)
            except EngineRefusal as refusal:
                raise RuntimeError(f"OpenVINO: {refusal.why}") from refusal

    def _check(self, leaves: tuple[Tensor, ...], shapes: Shapes) -> None:
        """RuntimeError where the graph itself refuses the shape: neither tracing nor OpenVINO looks at all sizes."""
        if shapes not in self._checked:
            self.__dict__["_canonical"].forward(*leaves)
            self._checked.add(shapes)

    def _compiled_for(self, leaves: tuple[Tensor, ...], shapes: Shapes) -> Session:
        if len(self._sessions) < MOST_SHAPES:
            self._sessions[shapes] = self._compiled(leaves)
            return self._sessions[shapes]
        if self._open is None:
            self._open = self._compiled(leaves, is_dynamic=True)
        if self._open.takes(shapes):
            return self._open
        session = self._compiled(leaves)  # the graph fixes this size: one graph for each
        self._sessions.popitem(last=True)
        self._sessions[shapes] = session
        return session

    def _compiled(self, leaves: tuple[Tensor, ...], *, is_dynamic: bool = False) -> Session:
        """LSTMs on codes where int8 kernels run all of them, and in float where not; on fewer threads where it pays."""
        canonical = self.__dict__["_canonical"]
        model = to_model(canonical, leaves, is_dynamic=is_dynamic, has_codes=True)
        session = compiled(model, leaves, self._threads)
        if not runs_on_codes(session):
            model = to_model(canonical, leaves, is_dynamic=is_dynamic)
            session = compiled(model, leaves, self._threads)
        if is_dynamic:
            return session
        session, why = on_fewest_threads(
            session, lambda count: compiled(model, leaves, count), plain(leaves), self._threads
        )
        self.told = self.told or why
        return session

    def _like_first(self, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Plain tensors of the example's dtypes: integers widen, anything else must match. RuntimeError otherwise."""
        pairs = zip(leaves, self._dtypes, strict=True)
        return plain(tuple([_as(leaf, dtype, index) for index, (leaf, dtype) in enumerate(pairs)]))


def _as(leaf: Tensor, dtype: torch.dtype, index: int) -> Tensor:
    made = widened(leaf, dtype)
    if made is None:
        raise RuntimeError(f"input {index} is {leaf.dtype}, the graph was compiled for {dtype}")
    return made


def _shapes(leaves: tuple[Tensor, ...]) -> Shapes:
    return tuple(leaf.shape for leaf in leaves)


def _open_shapes(graph_module: fx.GraphModule) -> list[list[int]]:
    """The sizes of the inputs, -1 where torch.export left one open; the front end takes all of them for open."""
    inputs = [node.meta["val"].shape for node in graph_module.graph.nodes if node.op == "placeholder"]
    return [[size if isinstance(size, int) else -1 for size in shape] for shape in inputs]


def _name(model: ov.Model, graph_module: fx.GraphModule) -> None:
    """Put the canonical node's name before the name of each op, which OpenVINO carries into the compiled graph."""
    behind = {node.name: canonical_name(node) for node in graph_module.graph.nodes}
    for op in model.get_ordered_ops():
        name = op.get_friendly_name()
        canonical = behind.get(name.split("/")[0])
        if canonical and op.get_type_name() != "Parameter":
            op.set_friendly_name(f"[{canonical}]{name}")


def _refusal(error: Exception, graph_module: fx.GraphModule) -> EngineRefusal:
    """In the user's words: which op has no form, and the first canonical node that needs it."""
    missing = re.findall(r"No conversion rule found for operations: (.*)", str(error))
    named = [name.strip() for name in missing[0].split(",")] if missing else []
    failed = re.findall(
        r"Failed to convert operation '?([\w:.]+)|While (?:converting|validating) .*?\b([\w:.]+\.\w+)", str(error)
    )
    named += [name for pair in failed for name in pair if name]
    at_fault = set(re.findall(r"during conversion of operation (\w+)/", str(error)))  # nodes of the graph
    has_complex = "ComplexTypeMark" in str(error)  # it tells of its own type, and of some op that reads one
    for node in graph_module.graph.nodes:
        is_named = _is_complex(node) if has_complex else node.name in at_fault or str(node.target) in named
        if node.op == "call_function" and is_named:
            if has_complex:  # of the whole graph: its pieces would have to hand complex numbers to it
                return EngineRefusal(f"OpenVINO has no form of {node.target} here: it computes no complex numbers")
            return EngineRefusal(f"OpenVINO has no form of {node.target}", canonical_name(node))
    return EngineRefusal(f"OpenVINO does not convert it: {_telling_line(error)}", _named_in(str(error)))


def _is_complex(node: fx.Node) -> bool:
    values = (one.meta.get("val") for one in (node, *node.all_input_nodes))
    return any(isinstance(value, Tensor) and value.is_complex() for value in values)


def _named_in(text: str) -> str:
    found = re.search(r"\[(\w+)\]", text)
    return found.group(1) if found else ""


def _telling_line(error: Exception) -> str:
    """The first telling line of an error: OpenVINO's begin with where in its source they were raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [
        line for line in lines if not re.match(r"(Exception from|Check .* failed at|FrontEnd API failed with)", line)
    ]
    return (telling or lines or [type(error).__name__])[0]
