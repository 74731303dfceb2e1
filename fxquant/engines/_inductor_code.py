"""One compilation by inductor: the graph in, code that runs it out, and the process as it was before."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from fxquant.engines._inductor_graph import CANONICAL, decomposed, decomposed_op, layers_on_codes
from fxquant.engines.engine import EngineRefusal
from fxquant.engines.silence import silence
from fxquant.errors import in_one_line

_TALKERS = ("torch._inductor", "torch._dynamo", "torch._functorch")
_LOCK = threading.RLock()  # inductor's configuration belongs to the whole process

Run = Callable[..., tuple[Tensor, ...]]
OpenSizes = frozenset[tuple[int, int]]  # (input, dimension)


@dataclass(frozen=True, slots=True)
class Code:
    """Compiled code. `takes` tells whether inputs have sizes that it was compiled for."""

    call: Run
    takes: Callable[[Sequence[Tensor]], bool]
    rows: dict[str, str] = field(default_factory=dict)
    kernels: Counter[str] = field(default_factory=Counter)

    def run(self, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs for contiguous inputs of the right dtypes."""
        return tuple(self.call(*leaves))


def compiled(
    canonical: fx.GraphModule, leaves: tuple[Tensor, ...], threads: int, opened: OpenSizes = frozenset()
) -> Code:
    """The graph compiled for the shapes of `leaves`; the sizes `opened` are open. EngineRefusal where that fails."""
    plain: frozenset[str] = frozenset()
    with _LOCK, _undisturbed(), torch.inference_mode(False), torch.no_grad():
        while True:
            seen = _Seen()
            try:
                return _compiled(canonical, leaves, threads, opened, plain, seen)
            except Exception as error:  # of any kind: tracing runs the user's leaf modules, the rest is inductor's
                if not seen.unmatched - plain:
                    raise _refusal(canonical, leaves, error) from error
                plain |= seen.unmatched


@dataclass
class _Seen:
    """What inductor's patterns left of the graph: a custom pass that runs after them."""

    kernels: Counter[str] = field(default_factory=Counter)
    unmatched: frozenset[str] = frozenset()

    def __call__(self, graph: fx.Graph) -> None:
        """Count int8 kernels; stop where a layer did not match, whose weight would be widened at each call."""
        for node in graph.nodes:
            name = str(node.target)
            if node.op == "call_function" and name.startswith("onednn.q") and "pointwise" in name:
                self.kernels[name.split(".")[1]] += 1
        kept = decomposed_op("dequantize_per_channel.default")
        left = [node.meta.get("custom", {}).get(CANONICAL, "") for node in graph.nodes if node.target is kept]
        self.unmatched = frozenset(left)
        if left:
            raise RuntimeError(f"no int8 kernel for {', '.join(left)}")


def _compiled(
    canonical: fx.GraphModule,
    leaves: tuple[Tensor, ...],
    threads: int,
    opened: OpenSizes,
    plain: frozenset[str],
    seen: _Seen,
) -> Code:
    from torch._inductor.compile_fx import compile_fx

    given = tuple(leaf.detach().contiguous() for leaf in leaves)
    sizes = _Sizes(given, opened)
    settings = {
        "freezing": True,
        "cpp.threads": threads,
        "cpp_wrapper": True,  # one file for one compiler call, and no Python between kernels
        "compile_threads": 1,  # else a pool of processes stays behind
        "post_grad_custom_pre_pass": seen,
    }
    made: Any = compile_fx(decomposed(canonical, plain), sizes.stand_ins, config_patches=settings)
    made(*given)  # code for the CPU is compiled at its first call
    rows = {name: "float32" if name in plain else "int8" for name in layers_on_codes(canonical)}
    return Code(made, sizes.guard(), rows, seen.kernels)


class _Sizes:
    """Inputs without values to compile with, some of their sizes open; and what the compiler assumed of those."""

    def __init__(self, leaves: tuple[Tensor, ...], opened: OpenSizes) -> None:
        self.leaves, self.opened = leaves, opened
        self.shape_env = ShapeEnv()
        mode = FakeTensorMode(shape_env=self.shape_env, allow_non_fake_inputs=True)
        fakes = [self._stand_in(mode, index) for index in range(len(leaves))] if opened else []
        self.stand_ins: list[Tensor] = [*fakes] or [*leaves]

    def _stand_in(self, mode: FakeTensorMode, index: int) -> Tensor:
        from torch._dynamo.source import ConstantSource

        leaf = self.leaves[index]
        kinds = [
            DimDynamic.DYNAMIC if (index, place) in self.opened else DimDynamic.STATIC for place in range(leaf.dim())
        ]
        context: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext(dynamic_sizes=kinds)
        return mode.from_tensor(leaf, symbolic_context=context, source=ConstantSource(f"leaf_{index}"))

    def guard(self) -> Callable[[Sequence[Tensor]], bool]:
        """A test of other inputs. It keeps no tensor."""
        shapes = tuple(leaf.shape for leaf in self.leaves)
        if not self.opened:
            return lambda others: tuple(other.shape for other in others) == shapes
        opened = sorted(self.opened)
        symbols: Any = [self.stand_ins[index].shape[place] for index, place in opened]
        guards = self.shape_env.produce_guards_expression(placeholders=symbols)
        shape_env, any_size = self.shape_env, self.opened

        def takes(others: Sequence[Tensor]) -> bool:
            if not _agree(shapes, tuple(other.shape for other in others), any_size):
                return False
            sizes = [others[index].shape[place] for index, place in opened]
            return guards is None or bool(shape_env.evaluate_guards_expression(guards, sizes))

        return takes


def _agree(shapes: Sequence[torch.Size], others: Sequence[torch.Size], opened: OpenSizes) -> bool:
    """Are all sizes equal that are not open?"""
    return all(len(shape) == len(other) for shape, other in zip(shapes, others, strict=True)) and all(
        size == found or (index, place) in opened
        for index, (shape, other) in enumerate(zip(shapes, others, strict=True))
        for place, (size, found) in enumerate(zip(shape, other, strict=True))
    )


def _refusal(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], error: Exception) -> EngineRefusal:
    """In one line, with the node at which the graph stops being traceable, if it does."""
    if isinstance(error, EngineRefusal):
        return error
    return EngineRefusal(in_one_line(error), _at_fault(canonical, leaves))


def _at_fault(canonical: fx.GraphModule, leaves: tuple[Tensor, ...]) -> str:
    """The first node that does not run on tensors without values; '' where all do."""
    walk = _Walk(decomposed(canonical))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            walk.run(*(mode.from_tensor(leaf.detach()) for leaf in leaves))
        except Exception:  # whatever it is, this node raises it
            return walk.at
    return ""


class _Walk(fx.Interpreter):
    """Runs a graph and remembers where it is."""

    at = ""

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.meta.get("custom", {}).get(CANONICAL, "")
        return super().run_node(n)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Warnings and log lines are dropped inside the block; what inductor sets in the process is undone after it."""
    environment = dict(os.environ)
    with silence(*_TALKERS), torch.random.fork_rng(devices=()):
        try:
            yield
        finally:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
