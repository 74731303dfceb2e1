"""Pairs for OpenVINO: before its int8 layers and nowhere else, on grids that its kernels read, for any graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import qdq
from fxquant.engines._openvino_grids import for_kernels
from fxquant.engines.openvino_placement import LAYERS, placed
from fxquant.grids import Grid, grid_of
from fxquant.numerics import sqnr_db
from support.models import MODELS

UNSIGNED = (0.05, 0, 0, 255, torch.uint8)
SIGNED = (0.05, 100, 0, 255, torch.uint8)


def graph_of(forward: Callable[..., Tensor]) -> fx.GraphModule:
    """The canonical graph that a function spells out: q(...) and dq(...) become calls of the canonical ops."""
    graph = fx.Tracer(autowrap_functions=(q, dq)).trace(Spelled(forward))
    made = fx.GraphModule(Spelled(forward), graph)
    for node in made.graph.nodes:
        node.target = {q: qdq.quantize_per_tensor, dq: qdq.dequantize_per_tensor}.get(node.target, node.target)
    made.recompile()
    return made


class Spelled(nn.Module):
    """A weight and a function of it and the input."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.function = forward
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def q(x: Tensor, *limits: object) -> Tensor:
    raise NotImplementedError("traced, never run")


def dq(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    raise NotImplementedError("traced, never run")


def pair(x: Tensor, limits: tuple[object, ...]) -> Tensor:
    return dq(q(x, *limits), *limits[:2])


def targets(graph_module: fx.GraphModule) -> list[object]:
    return [node.target for node in graph_module.graph.nodes if node.op.startswith("call")]


PAIR = [qdq.quantize_per_tensor, qdq.dequantize_per_tensor]


def test_only_what_a_layer_reads_is_rounded_and_a_pooling_moves_codes() -> None:
    made = placed(
        graph_of(lambda m, x: pair(F.conv2d(pair(m.pool(pair(x.sigmoid(), UNSIGNED)), UNSIGNED), m.weight), SIGNED))
    )
    assert targets(made) == ["sigmoid", *PAIR, "pool", F.conv2d]


def test_a_pair_stands_after_a_transpose() -> None:
    def forward(m: Spelled, x: Tensor) -> Tensor:
        return F.conv2d(pair(pair(x.relu(), UNSIGNED).transpose(2, 3).contiguous(), UNSIGNED), m.weight)

    assert targets(placed(graph_of(forward))) == ["relu", "transpose", "contiguous", *PAIR, F.conv2d]


def test_a_sum_with_a_convolution_reads_the_codes_that_the_next_layer_reads() -> None:
    def forward(m: Spelled, x: Tensor) -> Tensor:
        skip = pair(x.relu(), UNSIGNED)
        return pair(pair(F.conv2d(skip, m.weight), SIGNED) + skip, SIGNED)

    made = placed(graph_of(forward))
    skip, summed = [node for node in made.graph.nodes if node.target is qdq.dequantize_per_tensor]
    assert {user.name for user in skip.users} == {"conv2d", "add"}
    assert summed.args[0].args[0].target is F.conv2d and [user.name for user in summed.users] == ["add"]


@pytest.mark.parametrize("is_sum", [True, False])
def test_a_mean_over_a_sum_with_a_convolution_reads_codes_and_no_other_mean_does(is_sum: bool) -> None:
    def forward(m: Spelled, x: Tensor) -> Tensor:
        skip = pair(x.relu(), UNSIGNED)
        given = F.conv2d(skip, m.weight) + skip if is_sum else skip.sigmoid()
        mean = torch.mean(pair(F.relu(given), UNSIGNED), (2, 3))
        return F.linear(pair(mean, UNSIGNED), m.weight.flatten(1))

    made = placed(graph_of(forward))
    (mean,) = [node for node in made.graph.nodes if node.target is torch.mean]
    assert (mean.args[0].target is qdq.dequantize_per_tensor) is is_sum
    assert mean.next.target is qdq.quantize_per_tensor


def test_all_parts_of_a_concatenation_get_the_grid_of_its_reader() -> None:
    def forward(m: Spelled, x: Tensor) -> Tensor:
        both = torch.cat([pair(x[:, :2].relu(), UNSIGNED), pair(x[:, 2:].relu(), UNSIGNED)], 1)
        return F.conv2d(pair(both, UNSIGNED), m.weight)

    made = placed(graph_of(forward))
    assert targets(made).count(qdq.quantize_per_tensor) == 2
    (joined,) = [node for node in made.graph.nodes if node.target is torch.cat]
    assert [node.op for node in joined.users] == ["call_function"] and next(iter(joined.users)).target is F.conv2d


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (UNSIGNED, UNSIGNED),
        ((0.1, 0, 0, 127, torch.uint8), (12.7 / 255, 0, 0, 255, torch.uint8)),
        (SIGNED, (7.75 / 127, 0, -128, 127, torch.int8)),
        ((0.5, 8, 0, 15, torch.uint8), (0.5, 8, 0, 15, torch.uint8)),  # 4 bits that are simulated
    ],
)
def test_grids_become_those_of_the_kernels(limits: tuple[object, ...], expected: tuple[object, ...]) -> None:
    got = for_kernels(Grid(*limits))  # type: ignore[arg-type]
    assert got[1:] == expected[1:] and got.scale == pytest.approx(expected[0])


def test_a_clamp_within_the_grid_goes_and_one_that_cuts_it_narrows_it() -> None:
    wide = (0.1, 0, 0, 255, torch.uint8)
    made = placed(graph_of(lambda m, x: F.conv2d(pair(F.hardtanh(x, 0.0, 6.0), wide), m.weight)))
    (quantize,) = [node for node in made.graph.nodes if grid_of(node) is not None]
    assert targets(made) == [*PAIR, F.conv2d] and quantize.args[1] == pytest.approx(6 / 255)
    kept = placed(graph_of(lambda m, x: F.conv2d(pair(F.hardtanh(x, -1.0, 6.0), SIGNED), m.weight)))
    assert F.hardtanh in targets(kept)  # -5 … 7.75 is cut at both ends, and not evenly


def test_what_a_range_stood_for_comes_back_where_its_pair_goes() -> None:
    graph_module = graph_of(lambda m, x: pair(x * 2, UNSIGNED) + 1)
    assert F.hardtanh in targets(placed(graph_module))  # read from a file: nothing says that this was no ReLU6
    for quantize in graph_module.graph.find_nodes(op="call_function", target=qdq.quantize_per_tensor):
        quantize.meta[qdq.FOLDED] = (0.0, 6.0)
    x, made = torch.randn(2, 4, 4, 4) * 4, placed(graph_module)
    assert torch.equal(made(x), (x * 2).clamp(0, 6) + 1)


def test_codes_that_somebody_reads_as_integers_stay() -> None:
    made = placed(graph_of(lambda m, x: q(x, *UNSIGNED) + 1))
    assert qdq.quantize_per_tensor in targets(made)


@cache
def canonical_of(name: str) -> tuple[fx.GraphModule, tuple[Tensor, ...], nn.Module]:
    case = MODELS[name]
    model, batches = case.make().eval(), case.batches(2, 8)
    compiled = fxquant.compile(model, "int8", calibration_data=batches, target="onednn")
    return compiled.canonical, tuple(batches[0]), model


@pytest.mark.parametrize("name", ["mobilenet_v2", "encoder", "unet", "dense_block", "two_inputs", "lstm"])
def test_it_only_takes_roundings_away_and_leaves_the_given_graph_alone(name: str) -> None:
    canonical, leaves, model = canonical_of(name)
    code, made = canonical.code, placed(canonical)
    assert canonical.code == code and _told(placed(made)) == _told(made)
    assert _coded_layers(made) >= _coded_layers(canonical)
    with torch.no_grad():
        exact = model(*leaves)
        own = sqnr_db(exact, canonical(*leaves)[0])
    assert sqnr_db(exact, made(*leaves)[0]) >= own - 6.03  # a symmetric step is twice the other at most: 20·log10(2) dB


def _told(graph_module: fx.GraphModule) -> list[tuple[object, ...]]:
    """Ops in order, with the numbers that they are given."""
    nodes = [node for node in graph_module.graph.nodes if node.op.startswith("call")]
    return [(node.target, *(value for value in node.args if isinstance(value, (int, float)))) for node in nodes]


def _coded_layers(graph_module: fx.GraphModule) -> int:
    return sum(_is_on_codes(node.args[0]) for node in graph_module.graph.nodes if node.target in LAYERS)


def _is_on_codes(value: fx.Node) -> bool:
    while value.target in (torch.cat, "view", "flatten") or value.op == "call_module":
        value = value.args[0][0] if value.target is torch.cat else value.args[0]
    return value.target is qdq.dequantize_per_tensor
