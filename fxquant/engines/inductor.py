"""torch's inductor as an engine: the canonical graph as C++ that it writes around oneDNN's int8 kernels.

Weights are frozen into the code's constants. The first code is for the example's shapes. Sizes that differ in a later
call are open in the code that is made then; a shape that this does not take gets code of its own. Each takes tens of
seconds, so after a few of them other shapes run the canonical graph in torch, which gives the same numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fxquant.engines._inductor_code import Code, OpenSizes, compiled
from fxquant.engines.engine import EngineModule, EngineRefusal, widened
from fxquant.presence import CPP, presence_of

MOST_CODES = 6  # that are compiled for one graph
_MOST_KNOWN = 4096  # shapes whose code is remembered

Shapes = tuple[torch.Size, ...]


def build(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int) -> EngineModule:
    """The engine for this graph, ready for inputs like `leaves`. EngineRefusal where inductor cannot compile it."""
    compiler = presence_of(((CPP, ""),))
    if not compiler.is_here:
        raise EngineRefusal(f"no C++ compiler: {compiler.why}")
    return InductorModule(canonical, leaves, threads)


class InductorModule(EngineModule):
    """The graph as compiled code. Calls from several threads at once are served: code holds no state."""

    engine = "inductor"

    def __init__(self, canonical: fx.GraphModule, leaves: tuple[Tensor, ...], threads: int) -> None:
        super().__init__()
        self.__dict__["_canonical"] = canonical  # not a child: its tensors are the program's
        self._threads, self._lock = threads, threading.RLock()
        self._dtypes = tuple(leaf.dtype for leaf in leaves)
        self._sizes = _shapes(leaves)
        self._first = compiled(canonical, leaves, threads)
        self._codes: list[Code] = [self._first]
        self._known: dict[Shapes, Code] = {self._sizes: self._first}
        self._open: OpenSizes = frozenset()
        self._handed = _handed_out(self._first, leaves)

    def rows(self) -> dict[str, str]:
        """What each layer on codes computes in: 'int8' where oneDNN's kernel for codes runs, else 'float32'."""
        return dict(self._first.rows)

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """The outputs for these inputs. RuntimeError where the graph refuses them."""
        given = tuple(map(_as, leaves, self._dtypes))
        code = self._known.get(_shapes(given)) or self._found(given)
        with torch.no_grad():
            results = code.run(given)
        if self._handed:
            results = tuple(value.clone() if index in self._handed else value for index, value in enumerate(results))
        return results

    def _found(self, leaves: tuple[Tensor, ...]) -> Code:
        """The code for a shape that comes for the first time."""
        shapes = _shapes(leaves)
        with self._lock:
            code = next((code for code in self._codes if code.takes(leaves)), None)
            if code is None:
                code = self._made(leaves)
            if len(self._known) < _MOST_KNOWN:
                self._known[shapes] = code
            return code

    def _made(self, leaves: tuple[Tensor, ...]) -> Code:
        """More code, or the canonical graph in torch. RuntimeError where that refuses the shape."""
        canonical = self.__dict__["_canonical"]
        in_torch = Code(canonical.forward, lambda other: False)
        opened = self._open | _differing(self._sizes, _shapes(leaves))
        if len(self._codes) >= MOST_CODES or any(0 in leaf.shape for leaf in leaves):
            return in_torch
        in_torch.run(leaves)  # tracing does not look at all sizes
        opens_more = opened != self._open  # else what is open was not enough: code for this shape alone
        self._open = opened
        try:
            code = compiled(canonical, leaves, self._threads, opened if opens_more else frozenset())
        except EngineRefusal:
            return in_torch  # where a call tells what is wrong with such inputs, if anything is
        self._codes.append(code)
        return code


def kernels(module: EngineModule) -> dict[str, int]:
    """How often each of oneDNN's int8 kernels stands in the code: {'qconv_pointwise': 20, 'qlinear_pointwise': 1}."""
    return dict(module._first.kernels) if isinstance(module, InductorModule) else {}


def _as(leaf: Tensor, dtype: torch.dtype) -> Tensor:
    """The input as the code takes it: contiguous, of the example's dtype. Integers widen; RuntimeError otherwise."""
    made = widened(leaf, dtype)
    if made is None:
        raise RuntimeError(f"the graph was compiled for {dtype}, not {leaf.dtype}")
    return made.detach().contiguous()


def _shapes(leaves: Sequence[Tensor]) -> Shapes:
    return tuple(leaf.shape for leaf in leaves)


def _differing(first: Shapes, other: Shapes) -> OpenSizes:
    """(input, dimension) of each size that differs. A size of one cannot be open: broadcasting goes by it."""
    return frozenset(
        (index, place)
        for index, shapes in enumerate(zip(first, other, strict=True))
        for place, (size, found) in enumerate(zip(*shapes, strict=False))
        if size != found and found > 1
    )


def _handed_out(code: Code, leaves: tuple[Tensor, ...]) -> frozenset[int]:
    """Which outputs are no new tensors: inputs handed through, and constants. Those are copied for each caller."""
    given = tuple(leaf.detach().contiguous() for leaf in leaves)
    with torch.no_grad():
        first, second = code.run(given), code.run(given)
    known = {_memory(value) for value in (*given, *first)}
    return frozenset(index for index, value in enumerate(second) if _memory(value) in known)


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
