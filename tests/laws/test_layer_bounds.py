"""Laws of single layers: the textbook bound (I6), more bits (I13), the power of the noise (I14), each kernel's own step."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import fxquant
from fxquant import qdq
from fxquant.bounds import error_bound
from fxquant.bounds.rounding import HALF
from fxquant.numerics import sqnr_db
from fxquant.passes._canonical import is_activation_quantize
from fxquant.passes._native_graph import Lowered, NativeGraph
from fxquant.passes.lower_native import decided_float
from fxquant.torch_ao import engine, quiet
from support.compiling import ENGINES, compiled, run
from support.small import AGREE, SMALL

LAYERS = (
    *("linear", "linear_without_bias", "linear_of_three_dimensions", "conv", "conv_without_bias", "conv_relu"),
    *("conv_depthwise", "conv_dilated", "conv1d", "conv3d", "conv_transpose", "conv_transpose1d"),
)
SEEDS = st.integers(0, 2**31)


def linear_part(layer: nn.Module, weight: Tensor) -> nn.Module:
    """The layer without its bias, on another weight."""
    found = copy.deepcopy(layer)
    found.weight, found.bias = nn.Parameter(weight), None
    return found


def quantizes(model: fxquant.CompiledModel) -> list[fx.Node]:
    return [node for node in model.canonical.graph.nodes if is_activation_quantize(node)]


def span(node: fx.Node) -> tuple[float, float]:
    _, scale, zero_point, low, high, _ = node.args
    return (low - zero_point) * scale, (high - zero_point) * scale


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("name", LAYERS)
def test_i6_a_static_layer_keeps_the_textbook_bound(name, target):
    """|Δy| <= Σ|w| s_x/2 + Σ|x| s_w/2 + n s_x s_w/4 + s_y/2, and half of s_x s_w where the bias is int32."""
    case, model = SMALL[name], SMALL[name].make()
    quantized = compiled(case, "int8", target=target)
    layer = next(module for module in model.modules() if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)))
    (enters, *_, leaves) = quantizes(quantized)
    scales = [value for key, value in quantized.state_dict().items() if key.endswith("weight_scale")]
    s_x, s_w, s_y = enters.args[1], float(scales[0].max()), leaves.args[1]
    (x,) = case.inputs(7, 16)
    seen = x.clamp(*span(enters))
    with torch.no_grad():
        ones = linear_part(layer, torch.ones_like(layer.weight))
        sums, terms = linear_part(layer, layer.weight.abs()), ones(torch.ones_like(x))
        bound = sums(torch.full_like(x, s_x / 2)) + ones(seen.abs()) * s_w / 2 + terms * s_x * s_w / 4
        bound = bound + s_y / 2 + s_x * s_w / 2
        expected, actual = model(seen), run(quantized, target, x)
    low, high = span(leaves)
    is_in_range = (expected >= low) & (expected <= high)
    assert float(is_in_range.float().mean()) > 0.8
    assert bool(((actual - expected).abs() <= bound * (1 + 1e-3))[is_in_range].all())


# More bits (I13) -----------------------------------------------------------------------------------------------------


def with_bits(tmp_path, weight_bits: int, activation_bits: int) -> tuple[fxquant.CompiledModel, nn.Module]:
    recipe = tmp_path / f"w{weight_bits}a{activation_bits}.toml"
    recipe.write_text(
        "schema = 1\n[[rule]]\ntargets = ['*']\n"
        f"weight = {{ num_bits = {weight_bits} }}\n"
        f"activation = {{ observer = 'minmax', num_bits = {activation_bits} }}\n"
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    data = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    return fxquant.compile(model, recipe, calibration_data=data), model


def test_i13_more_bits_of_activations_never_loosen_the_bound(tmp_path):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    largest = []
    for bits in range(2, 9):
        quantized, model = with_bits(tmp_path, 8, bits)
        bound = error_bound(quantized, x, model=model)
        assert not bound.unexplained and bound.holds(quantized(x), model(x).detach())
        largest.append(float(bound.bound.mean()))
    assert largest == sorted(largest, reverse=True) and largest[0] > 8 * largest[-1]


def test_i13_more_bits_of_weights_never_loosen_what_they_are_allowed(tmp_path):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    allowed = []
    for bits in range(2, 9):
        quantized, model = with_bits(tmp_path, bits, 8)
        bound = error_bound(quantized, x, model=model)
        assert not bound.unexplained and bound.holds(quantized(x), model(x).detach())
        allowed.append([layer.weights for layer in bound.layers if layer.op == "Linear"])
    for sites in zip(*allowed, strict=True):
        assert list(sites) == sorted(sites, reverse=True) and sites[0] > 8 * sites[-1]


# The power of the noise (I14) ------------------------------------------------------------------------------------------


@given(SEEDS, st.floats(-4, 3).map(lambda power: 10.0**power))
def test_i14_the_noise_of_smooth_data_has_a_twelfth_of_a_step_squared(seed, scale):
    x = torch.randn(4096, generator=torch.Generator().manual_seed(seed)) * 16 * scale
    noise = qdq.dequantize_per_tensor(qdq.quantize_per_tensor(x, scale, 128, 0, 255, torch.uint8), scale, 128) - x
    assert 0.5 <= float(noise.double().square().mean()) / (scale**2 / 12) <= 2


@given(SEEDS)
def test_i14_eight_bits_per_channel_keep_35_db_of_gaussian_weights(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32)).eval()
        nn.init.normal_(model[0].weight)
        x = torch.randn(64, 64)
    quantized = fxquant.compile(model, "int8-weight-only", example_inputs=x)
    with torch.no_grad():
        assert sqnr_db(model(x), quantized(x)) >= 35


@pytest.mark.parametrize("name", [name for name in AGREE if name != "softmax"])
def test_i14_the_estimate_is_what_is_measured_to_within_a_factor_of_two(name):
    case = SMALL[name]
    model, quantized = case.make(), compiled(case, "int8")
    (x,) = case.inputs(3, 64)
    bound = error_bound(quantized, x, model=model)
    with torch.no_grad():
        error = (quantized(x) - model(x)).double().square().mean().sqrt()
    assert 0.5 < float(bound.estimate.square().mean().sqrt() / error) < 2


# Each kernel's own step ------------------------------------------------------------------------------------------------


class _Recorder(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.values: dict[fx.Node, object] = {}

    def run_node(self, node: fx.Node) -> object:
        self.values[node] = super().run_node(node)
        return self.values[node]


class _Kernels(fx.Interpreter):
    """Each kernel fed the canonical graph's own codes: how many steps its result is off, less an int32 bias' part."""

    def __init__(self, lowered: Lowered, values: dict[fx.Node, object]) -> None:
        super().__init__(lowered.graph_module)
        self.counterpart, self.values = lowered.counterpart, values
        self.steps: dict[str, float] = {}

    def run_node(self, node: fx.Node) -> object:
        value, canonical = super().run_node(node), self.counterpart.get(node)
        if canonical is None or not isinstance(value, Tensor):
            return value
        if not value.is_quantized:
            return self.values[canonical]
        if canonical.target is not qdq.quantize_per_tensor:
            return self._moved(str(node.target), value, self.values[canonical])
        _, scale, zero_point, *_ = canonical.args
        exact = self.values[canonical.args[0]].double().clamp(*span(canonical))
        off = ((value.int_repr().double() - zero_point) - exact / scale).abs() - self._bias(canonical) / scale
        name = str(node.target)
        self.steps[name] = max(self.steps.get(name, 0.0), float(off.max()))
        return torch._make_per_tensor_quantized_tensor(self.values[canonical], value.q_scale(), value.q_zero_point())

    def _moved(self, name: str, value: Tensor, expected: Tensor) -> Tensor:
        """An op that hands on the codes that it reads: the canonical graph has float values there."""
        off = (value.dequantize().double() - expected.double()).abs() / value.q_scale()
        self.steps[name] = max(self.steps.get(name, 0.0), float(off.max()))
        return torch.quantize_per_tensor(expected, value.q_scale(), value.q_zero_point(), value.dtype)

    def _bias(self, quantize: fx.Node) -> float:
        layer = quantize.args[0]
        while layer.target in (nn.functional.relu, torch.relu):
            layer = layer.args[0]
        weight = layer.args[1] if len(layer.args) > 2 and layer.args[2] is not None else None
        if not isinstance(weight, fx.Node) or weight.target not in qdq.DEQUANTIZE:
            return 0.0
        scale = self.values.get(weight.args[1], weight.args[1])
        step = next(
            (n.args[1] for n in [layer.args[0], *layer.args[0].all_input_nodes] if n.target in qdq.DEQUANTIZE), 0
        )
        return float(torch.as_tensor(scale).max()) * step / 2


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("name", AGREE)
def test_each_kernel_rounds_its_exact_result_once(name, target):
    """The step rule that the bounds rest on, per kernel. qnnpack's int32 bias is the only further error."""
    case, quantized = SMALL[name], compiled(SMALL[name], "int8", target=target)
    lost = {row.site for row in quantized.ledger.layers if row.code in ("FXQ504", "FXQ505")}
    avoid = decided_float(replace(quantized.program, graph_module=quantized.canonical))
    avoid |= {n: "by test" for n in quantized.canonical.graph.nodes if lost & set(n.meta.get("fxq_origin", ()))}
    with engine(target), quiet(), torch.no_grad():
        lowered = NativeGraph(quantized.canonical, target, avoid).build()
        for seed in range(3):
            leaves = case.inputs(seed, 64)
            recorder = _Recorder(quantized.canonical)
            recorder.run(*leaves)
            kernels = _Kernels(lowered, recorder.values)
            kernels.run(*leaves)
            assert kernels.steps
            assert {kernel: off for kernel, off in kernels.steps.items() if off > HALF} == {}
