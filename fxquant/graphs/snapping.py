"""Taking a snapshot of anything that holds a graph. The only file here that knows torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, cast
from zlib import crc32

import torch
from torch import fx, nn

from fxquant.errors import ContractError, UsageError, did_you_mean
from fxquant.graphs.cut import PLACED
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord, TensorInfo
from fxquant.origin import origins, scope, where
from fxquant.placed import placed_as
from fxquant.program import Program, Stage
from fxquant.qdq import DEQUANTIZE, QUANTIZE
from fxquant.values import fetched, known_value, record_values

MOST_READ = 4096  # elements of a constant whose values are summed up: scales and zero points, no weights


def snapshot(
    x: Any, *, stage: Stage | str | None = None, example_inputs: Sequence[torch.Tensor] | None = None
) -> GraphSnapshot:
    """The graph of a Program, a compiled model, a `torch.fx.GraphModule`, or any model that can be traced.

    Args:
        x: a `CompiledModel`, `Program`, `fx.GraphModule`, `nn.Module` or `GraphSnapshot`. It is not changed.
        stage: of a compiled model or a pass record's history: 'traced' to 'lowered'. None: as far as it has come.
        example_inputs: one call's tensors, for the dtypes and shapes of a module that was not compiled.

    Raises:
        UsageError: FXQ115 when `x` holds no graph, FXQ402 when a stage was not reached.
        UnsupportedModelError: a plain `nn.Module` that cannot be traced.
    """
    own = getattr(type(x), "__fxquant_snapshot__", None)
    if own is not None:
        return cast(GraphSnapshot, own(x, stage))
    if stage is not None:
        raise UsageError("FXQ115", f"{type(x).__name__} has no stages", hint="a compiled model has; leave stage= out")
    match x:
        case GraphSnapshot():
            return x
        case Program():
            return snapshot_of(x.graph_module, title=f"{x.model_name}, {x.stage.name}")
        case fx.GraphModule():
            return _of_foreign(x, example_inputs)
        case nn.Module():
            return _of_traced(x, example_inputs)
        case _:
            raise UsageError(
                "FXQ115",
                f"{type(x).__name__} holds no graph",
                hint="give a CompiledModel, a torch.fx.GraphModule, an nn.Module that can be traced, or a snapshot",
            )


def snapshot_of(graph_module: fx.GraphModule, *, title: str = "") -> GraphSnapshot:
    """The graph as plain data. Of constants only small ones are read."""
    return GraphSnapshot(tuple(_record(node, graph_module) for node in graph_module.graph.nodes), title)


def _of_foreign(graph_module: fx.GraphModule, example: Sequence[torch.Tensor] | None) -> GraphSnapshot:
    """Values that somebody noted in `node.meta` are used; an example notes them on a copy."""
    if example is not None:
        graph_module = fx.GraphModule(graph_module, _copied(graph_module.graph), type(graph_module).__name__)
        record_values(graph_module, _call(example))
    return snapshot_of(graph_module, title=type(graph_module).__name__)


def _copied(graph: fx.Graph) -> fx.Graph:
    made = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = made.node_copy(node, copies.__getitem__)
        copies[node].name = node.name
    return made


def _of_traced(model: nn.Module, example: Sequence[torch.Tensor] | None) -> GraphSnapshot:
    from fxquant.capture import capture
    from fxquant.fork import fork
    from fxquant.ledger import Ledger
    from fxquant.request import CaptureRequest

    request = CaptureRequest(fork(model), None if example is None else _call(example))
    return snapshot(capture(request, Ledger()))


def _call(example: Sequence[torch.Tensor] | torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A tensor by itself is the one argument, not a row for each."""
    return (example,) if isinstance(example, torch.Tensor) else tuple(example)


def stage_named(stage: Stage | str) -> Stage:
    """A stage by its name in either case. FXQ402 with the nearest names."""
    names = [known.name.lower() for known in Stage]
    if isinstance(stage, str) and stage.lower() not in names:
        raise ContractError("FXQ402", f"no stage is called {stage!r}", hint=did_you_mean(stage.lower(), names))
    return Stage[stage.upper()] if isinstance(stage, str) else stage


def _record(node: fx.Node, graph_module: fx.GraphModule) -> NodeRecord:
    target, kind = str(node.target), str(node.target).rsplit(".", 1)[-1]
    if node.op == "call_module":
        kind = type(graph_module.get_submodule(target)).__name__
    elif node.op == "call_function":
        target = f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', node.target)}"
        kind = _op_name(node.target) or target.rsplit(".", 1)[-1]
    location = where(node)
    return NodeRecord(
        name=node.name,
        op=node.op,
        target=target,
        kind=kind,
        args=_text(node.args) + (_text(dict(node.kwargs)) if node.kwargs else ""),
        inputs=tuple(source.name for source in node.all_input_nodes),
        origins=origins(node),
        scope=scope(node),
        where="" if location is None else f"{location.file}:{location.line}",
        attributes=tuple(_attributes(node, graph_module)),
        values=tuple(_infos(known_value(node))),
    )


def _op_name(target: Any) -> str:
    """'conv2d_relu' of torch.ops.quantized.conv2d_relu.new, whose own name is but that of the overload."""
    return str(target.overloadpacket.__name__) if isinstance(target, torch._ops.OpOverload) else ""


def _attributes(node: fx.Node, graph_module: fx.GraphModule) -> Iterator[tuple[str, str]]:
    if node.op == "call_module":
        yield from _of_module(graph_module.get_submodule(str(node.target)))
    elif node.op == "get_attr":
        yield from _of_constant(fetched(graph_module, str(node.target)))
    elif node.op == "call_function" and node.target in (*QUANTIZE, *DEQUANTIZE):
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
        named = {key: value for key, value in bound.arguments.items() if not isinstance(value, fx.Node)}
        yield from ((key, str(value).removeprefix("torch.")) for key, value in named.items())
    if placed_as(node):
        yield PLACED, placed_as(node)


def _of_module(module: nn.Module) -> Iterator[tuple[str, str]]:
    told = module.extra_repr()
    if told:
        yield "options", " ".join(told.split())
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield name, str(_info(tensor))


def _of_constant(value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, torch.Tensor) or value.is_quantized or value.device.type == "meta":
        return
    if 0 < value.numel() <= MOST_READ and not value.is_complex():
        plain = value.detach().cpu().contiguous()
        checksum = crc32(plain.flatten().view(torch.uint8).numpy().tobytes())
        low, high = plain.min().item(), plain.max().item()
        yield "range", f"{low:.6g}" if low == high else f"{low:.6g}…{high:.6g}"
        yield "crc32", f"{checksum:08x}"


def _infos(value: Any) -> Iterator[TensorInfo]:
    match value:
        case torch.Tensor() | TensorInfo():
            yield _info(value)
        case tuple() | list():
            for item in value:
                yield from _infos(item)
        case dict():
            for item in value.values():
                yield from _infos(item)


def _info(value: torch.Tensor | TensorInfo) -> TensorInfo:
    if isinstance(value, TensorInfo):
        return value
    return TensorInfo(str(value.dtype).removeprefix("torch."), tuple(int(size) for size in value.shape))


def _text(value: object) -> str:
    """Canonical text of an argument: other nodes as %name, a per cent sign of its own as %%."""
    match value:
        case fx.Node():
            return f"%{value.name}"
        case tuple() | list():
            return "(" + ", ".join(_text(item) for item in value) + ")"
        case dict():
            return "{" + ", ".join(f"{key}={_text(item)}" for key, item in value.items()) + "}"
        case slice():
            return f"[{_text(value.start)}:{_text(value.stop)}:{_text(value.step)}]"
        case torch.Tensor():
            return f"tensor{list(value.shape)}"
        case _:
            return _without_addresses(repr(value)).replace("%", "%%")


def _without_addresses(text: str) -> str:
    """'<object at 0x7f…>' differs from run to run."""
    before, marker, after = text.partition(" at 0x")
    return text if not marker else before + _without_addresses(after.lstrip("0123456789abcdef"))
