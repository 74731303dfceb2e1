"""Costs against an independent count: torch's own FlopCounterMode, and the models' parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fxquant.graphs.costs import Cost, costs, tensor_bytes, total, width
from fxquant.graphs.snapping import snapshot
from fxquant.graphs.snapshot import TensorInfo
from support.compiled_zoo import of_zoo
from support.models import FAMILIES, MODELS

PLAIN = [name for name, case in MODELS.items() if case.is_traceable and case.keywords is None]


@contextmanager
def without_fused_kernels() -> Iterator[None]:
    """FlopCounterMode counts an LSTM and attention by their matrix products; fused kernels hide them from it."""
    before = torch.backends.mkldnn.enabled
    torch._C._set_mkldnn_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch._C._set_mkldnn_enabled(before)


def counted(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-accumulates as torch counts them: two flops each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), without_fused_kernels():
        model(*inputs)
    flops: int = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


@pytest.mark.parametrize("name", PLAIN)
def test_macs_and_parameters_of_the_zoo_are_those_that_torch_counts(name: str) -> None:
    model, inputs = MODELS[name].make(), MODELS[name].inputs()
    graph = snapshot(model, example_inputs=inputs)
    found = total(graph)
    assert found.macs == counted(model, *inputs)
    assert None not in {cost.macs for cost in costs(graph).values()}
    if name != "tied_weights":  # two modules with one tensor: a snapshot does not see that it is one
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert (found.parameters, found.weight_bytes) == (parameters, 4 * parameters)


@pytest.mark.parametrize(
    ("name", "giga"), [("resnet18", 1.814), ("resnet50", 4.089), ("mobilenet_v2", 0.301)]
)  # published: 1.81, 4.09 and 0.30 billion for one picture of 224 × 224
def test_macs_of_full_size_models_are_the_published_ones(name: str, giga: float) -> None:
    build = FAMILIES[name].build_full
    assert build is not None
    with torch.device("meta"):
        model = build().eval()
        picture = torch.empty(1, 3, 224, 224)
    found = total(snapshot(model, example_inputs=(picture,))).macs
    assert found is not None
    assert round(found / 1e9, 3) == giga


@given(st.data())
def test_macs_of_any_convolution_are_those_that_torch_counts(data: st.DataObject) -> None:
    draw, dims = data.draw, data.draw(st.integers(1, 3))
    is_transposed, groups = draw(st.booleans()), draw(st.integers(1, 3))
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d) if is_transposed else (
        nn.Conv1d, nn.Conv2d, nn.Conv3d
    )  # fmt: skip
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    options = {name: draw(st.integers(1, 2)) for name in ("stride", "dilation")}
    conv = kinds[dims - 1](channels, outputs, draw(st.integers(1, 3)), padding=1, groups=groups, **options)
    x = torch.zeros(draw(st.integers(1, 2)), channels, *(draw(st.integers(5, 7)) for _ in range(dims)))
    found = total(snapshot(nn.Sequential(conv), example_inputs=(x,)))
    assert found.macs == counted(conv, x)
    assert found.parameters == sum(parameter.numel() for parameter in conv.parameters())


class Products(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        plain = torch.baddbmm(torch.bmm(x, y), x, y)
        return x @ y, plain, nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])


class Einsum(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bij,bjk->bik", x, y)


def test_products_and_attention_count_as_torch_counts_them() -> None:
    x, y = torch.zeros(2, 3, 5), torch.zeros(2, 5, 4)
    assert total(snapshot(Products(), example_inputs=(x, y))).macs == counted(Products(), x, y) == 540


def test_an_einsum_is_unknown_and_not_free() -> None:
    graph = snapshot(Einsum(), example_inputs=(torch.zeros(2, 3, 5), torch.zeros(2, 5, 4)))
    assert costs(graph)["einsum"].macs is None


def test_without_an_example_products_are_unknown_and_parameters_are_not() -> None:
    graph = snapshot(nn.Sequential(nn.Linear(3, 2)))
    assert costs(graph)["_0"] == Cost(None, 8, 32, None)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        *((name, "int8") for name in ("resnet18", "unet", "lstm", "gru", "encoder")),
        *(("lstm", "int8-dynamic"), ("mobilenet_v3", "int8-dynamic"), ("encoder", "float16"), ("lstm", "float16")),
    ],
)
def test_every_stage_has_the_same_macs(name: str, preset: str) -> None:
    model = of_zoo(name, preset)
    traced, converted, lowered = (model.snapshot(stage) for stage in ("traced", "converted", "lowered"))
    assert total(converted).macs == total(traced).macs
    assert total(lowered, like=converted).macs == total(traced).macs
    assert total(lowered, like=traced).macs == total(traced).macs


def test_weights_of_codes_count_with_their_scales_and_zero_points() -> None:
    model = of_zoo("mlp")
    converted = model.snapshot("converted")
    layer = costs(converted)["linear"]
    assert layer.parameters == 8 * 32 + 32
    assert layer.weight_bytes == 8 * 32 + 32 * (4 + 8) + 32 * 4  # codes; scale, zero point; bias
    assert costs(model.snapshot("lowered"), like=converted)["linear_relu_default"].weight_bytes == layer.weight_bytes


@pytest.mark.parametrize("name", ["resnet18", "encoder"])
def test_an_exported_graph_costs_what_the_model_does(name: str) -> None:
    case = MODELS[name]
    exported = torch.export.export(case.make(), case.inputs())
    expected = total(snapshot(case.make(), example_inputs=case.inputs()))
    found = total(snapshot(exported.module()))
    assert (found.macs, found.parameters) == (expected.macs, expected.parameters)
    assert total(snapshot(exported.graph_module)).macs == expected.macs  # its weights are inputs


def test_packed_weights_are_unknown_and_never_a_wrong_number() -> None:
    graph = of_zoo("resnet18").snapshot("lowered")
    packed = [cost for name, cost in costs(graph).items() if name.startswith("conv2d")]
    assert packed
    assert {(cost.macs, cost.parameters, cost.weight_bytes) for cost in packed} == {(None, None, None)}


def test_a_module_called_twice_computes_twice_and_holds_its_weight_once() -> None:
    layer = nn.Linear(4, 4)
    found = total(snapshot(nn.Sequential(layer, layer), example_inputs=(torch.zeros(1, 4),)))
    assert (found.macs, found.parameters) == (32, 20)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *(("float32", 4), ("float16", 2), ("bfloat16", 2), ("float8_e4m3fn", 1), ("complex64", 8)),
        *(("quint8", 1), ("qint32", 4), ("int64", 8), ("bool", 1)),
    ],
)
def test_the_width_of_a_dtype_is_torchs(dtype: str, size: int) -> None:
    assert width(dtype) == size == getattr(torch, dtype).itemsize
    assert tensor_bytes((TensorInfo(dtype, (2, 3)), TensorInfo(dtype, ()))) == 7 * size
