"""A picture cut into tokens by a convolution runs as a linear layer on OpenVINO; any other convolution stays one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.engines._openvino_patches import write_patches
from fxquant.engines.openvino import OpenVINOModule, build
from fxquant.engines.openvino_placement import placed
from fxquant.graphmodule import copied
from fxquant.numerics import sqnr_db

X = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0))


class Tokens(nn.Module):
    """conv → what a function makes of its result → linear."""

    def __init__(self, after: Callable[[Tensor], Tensor], last: int = 8, **options: object) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 8, **{"kernel_size": (4, 2), "stride": (4, 2), **options})  # type: ignore[arg-type]
        self.head, self.after = nn.Linear(last, 5), after

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.cut(x)))


def turned(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2)


def canonical_of(model: nn.Module) -> fx.GraphModule:
    made = fxquant.compile(model.eval(), "int8", calibration_data=[X], example_inputs=(X,), target="onednn")
    return placed(made.canonical)


def convolutions(canonical: fx.GraphModule, x: Tensor = X) -> int:
    """How many are left."""
    graph_module = copied(canonical)
    write_patches(graph_module, (x,))
    graph_module.recompile()
    torch.testing.assert_close(graph_module(x), canonical(x), rtol=1e-5, atol=1e-5)
    return len(graph_module.graph.find_nodes(op="call_function", target=torch.conv2d))


AS_TOKENS: dict[str, Callable[[Tensor], Tensor]] = {
    "methods": turned,
    "functions": lambda y: torch.transpose(torch.flatten(y, 2), -1, -2),
    "ends": lambda y: y.flatten(2, 3).transpose(2, 1),
}


@pytest.mark.parametrize("after", AS_TOKENS)
@pytest.mark.parametrize("bias", [True, False])
def test_patches_become_a_linear_layer_with_the_same_numbers(after: str, bias: bool) -> None:
    torch.manual_seed(0)
    model = Tokens(AS_TOKENS[after], bias=bias)
    canonical = canonical_of(model)
    assert convolutions(canonical) == 0
    engine = build(canonical, (X,), threads=1)
    assert isinstance(engine, OpenVINOModule) and engine.rows()["conv2d"] == "int8"
    assert float(sqnr_db(canonical(X)[0], engine(X)[0])) > 30.0
    other = torch.randn(3, 3, 9, 7)  # a size that the kernel does not divide
    assert float(sqnr_db(canonical(other)[0], engine(other)[0])) > 30.0


OTHERS: dict[str, nn.Module] = {
    "overlapping": Tokens(turned, stride=(2, 2)),
    "gaps": Tokens(turned, stride=(6, 4)),
    "padded": Tokens(turned, padding=(4, 2)),
    "dilated": Tokens(turned, dilation=2),
    "pointwise": Tokens(turned, kernel_size=1, stride=1),
    "kept as a picture": Tokens(lambda y: y.flatten(2), last=12),
    "turned otherwise": Tokens(lambda y: y.flatten(2).transpose(0, 1), last=12),
    "flattened otherwise": Tokens(lambda y: y.flatten(1, 2).transpose(1, 2), last=24),
    "read twice": Tokens(lambda y: y.flatten(2).transpose(1, 2) + y.mean(), last=8),
    "activated": Tokens(lambda y: turned(torch.relu(y))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_convolutions_stay(name: str) -> None:
    assert convolutions(canonical_of(OTHERS[name])) == 1


@pytest.mark.parametrize("shape", [(2, 3, 11, 8), (2, 3, 12, 7)])
def test_a_size_that_the_kernel_does_not_divide_stays(shape: tuple[int, ...]) -> None:
    assert convolutions(canonical_of(Tokens(turned)), torch.randn(shape)) == 1
