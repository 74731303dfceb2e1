"""The observer of presets: what it counts, which range it picks, and that recipes, rules and training know it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import fxquant
import fxquant.qdq
from fxquant.errors import NonFiniteError
from fxquant.floors import FLOOR
from fxquant.least_error import errors
from fxquant.mse_observer import MSEObserver
from fxquant.numerics import sqnr_db
from fxquant.observers import MSE, LeastError
from fxquant.qconfigs import TensorAsk
from fxquant.running_histogram import HALF, RunningHistogram

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao.quantization import HistogramObserver, MinMaxObserver

UINT8 = TensorAsk("quint8", observer=MSE)


def drawn(name, count=40_000):
    source = torch.Generator().manual_seed(5)
    normal = torch.randn(count, generator=source)
    return {
        "normal": normal,
        "relu": normal.relu(),
        "relu6": (normal * 4).clamp(0, 6),
        "silu": nn.functional.silu(normal * 2),
        "laplace": normal.sign() * -torch.rand(count, generator=source).clamp(1e-9).log(),
        "outliers": torch.cat([normal, torch.tensor([60.0, -45.0])]),
        "heavy": normal * torch.randn(count, generator=source).mul(1.5).exp(),
        "tiny": normal * 1e-12,
        "huge": normal * 1e30,
        "below zero": -normal.abs() - 3.0,
    }[name]


DRAWN = ("normal", "relu", "relu6", "silu", "laplace", "outliers", "heavy", "tiny", "huge", "below zero")


def fed(observer, *batches):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches:
            observer(batch)
        scale, zero_point = observer.calculate_qparams()
    return float(scale), int(zero_point)


def error(x, qparams):
    scale, zero_point = qparams
    codes = (x.double() / scale).round().add(zero_point).clamp(0, 255)
    return float(((codes - zero_point) * scale - x.double()).square().sum())


@pytest.mark.parametrize("name", DRAWN)
def test_its_range_has_no_larger_error_than_those_of_torchs_observers(name):
    x = drawn(name)
    ours = error(x, fed(MSEObserver(UINT8), *x.chunk(4)))
    for kind in (MinMaxObserver, HistogramObserver):
        theirs = error(x, fed(kind(dtype=torch.quint8, eps=FLOOR), *x.chunk(4)))
        assert ours <= 1.02 * theirs, kind.__name__


def test_outliers_are_cut_off_and_the_ends_of_a_clamp_are_kept():
    scale, _ = fed(MSEObserver(UINT8), drawn("outliers", 400_000))
    assert scale * 255 < 0.7 * (60.0 + 45.0)
    assert fed(MSEObserver(UINT8), drawn("relu6")) == (pytest.approx(6 / 255), 0)


def test_the_order_of_the_batches_makes_no_difference():
    batches = [drawn("heavy") * size for size in (1e-3, 5.0, 1e4, 0.2)]
    found = {fed(MSEObserver(UINT8), *order) for order in (batches, batches[::-1], batches[2:] + batches[:2])}
    assert len(found) == 1


def test_counts_are_exact_when_the_histogram_widens():
    histogram, values = RunningHistogram(), torch.tensor([0.3, -0.3, 2.0, 0.0])
    for factor in (1e-30, 1.0, 1e30):
        seen = values * factor
        histogram.add(seen, float(seen.min()), float(seen.max()))
    middles, counts = histogram.filled()
    assert float(counts.sum()) == 3 * (3 + 2)  # zeros are left out; the extremes count once more
    assert float(middles.max()) <= 2e30 * (1 + 1 / HALF)
    assert bool((middles[1:] > middles[:-1]).all())


def test_a_large_tensor_is_counted_by_a_sample_that_stands_for_it():
    x = drawn("laplace", 400_000)
    histogram = RunningHistogram()
    histogram.add(x, float(x.min()), float(x.max()))
    middles, counts = histogram.filled()
    assert float(counts.sum()) == pytest.approx(x.numel(), rel=1e-3)
    variance = float((counts * middles.square()).sum() / counts.sum())
    assert variance == pytest.approx(float(x.square().mean()), rel=0.05)


def test_zeros_alone_and_nothing_at_all():
    assert fed(MSEObserver(UINT8), torch.zeros(8)) == (FLOOR, 0)
    assert fed(MSEObserver(UINT8)) == (1.0, 0)
    assert fed(MSEObserver(UINT8), torch.zeros(0, 4)) == (1.0, 0)


def test_a_single_value_is_exact():
    scale, zero_point = fed(MSEObserver(UINT8), torch.full((5,), 3.0))
    assert (round(3.0 / scale) + zero_point, zero_point) == (255, 0)


def test_a_symmetric_range_has_its_zero_in_the_middle():
    observer = MSEObserver(TensorAsk("qint8", is_symmetric=True, observer=MSE))
    scale, zero_point = fed(observer, drawn("silu"))
    low, high = observer.searched()
    assert zero_point == 0 and low == -high and scale == pytest.approx(2 * high / 255)


def test_fewer_bits_cut_more_off():
    few = MSEObserver(TensorAsk("quint8", quant_min=0, quant_max=15, observer=MSE))
    many = MSEObserver(UINT8)
    fed(few, drawn("laplace")), fed(many, drawn("laplace"))
    assert few.searched()[1] < 0.8 * many.searched()[1]


def test_the_error_is_that_of_quantizing():
    middles, counts = torch.tensor([0.1, 0.5, 2.0]).double(), torch.tensor([3.0, 2.0, 1.0]).double()
    [found] = errors(middles, counts, torch.zeros(1).double(), torch.ones(1).double(), 2).tolist()
    assert found == pytest.approx(3 * 0.1**2 + 2 * 0.0 + 1 * 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_inside_the_model_that_is_not_finite_is_an_error_with_its_name(value):
    class Spoils(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x * value)

    with pytest.raises(NonFiniteError, match="FXQ302"):
        fxquant.compile(Spoils().eval(), "int8", calibration_data=[torch.ones(8, 4)], target="onednn")


def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 4)).eval()


def scales(compiled):
    nodes = compiled.canonical.graph.nodes
    return [node.args[1] for node in nodes if node.target is fxquant.qdq.quantize_per_tensor]


def observers(compiled):
    return {type(module).__name__ for module in compiled.graph_module.modules() if hasattr(module, "calculate_qparams")}


def test_presets_use_it():
    assert observers(fxquant.compile(model(), "int8", example_inputs=(torch.ones(1, 8),))) == {"MSEObserver"}


RECIPE = """schema = 1
[[rule]]
targets = ["*"]
weight = {{ dtype = "int8" }}
activation = {{ dtype = "{dtype}", observer = "mse" }}
"""


@pytest.mark.parametrize("dtype", ["uint8", "e4m3"])
def test_a_recipe_can_ask_for_it(tmp_path, dtype):
    path = tmp_path / "recipe.toml"
    weight = "int8" if dtype == "uint8" else dtype
    path.write_text(RECIPE.format(dtype=dtype).replace('"int8"', f'"{weight}"'))
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    found = fxquant.compile(model(), path, calibration_data=[x])
    with torch.no_grad():
        assert sqnr_db(model()(x), found(x)) > 22.0


def test_qconfig_can_ask_for_it_and_equal_asks_are_equal():
    first, second = (fxquant.qconfig("int8", "uint8", observer="mse") for _ in range(2))
    assert isinstance(first.activation, LeastError) and first.activation == second.activation


def test_training_starts_from_its_range():
    x = drawn("laplace", 4096).reshape(-1, 8)
    trained = fxquant.compile(model(), "int8", calibration_data=[x], mode="qat", target="onednn")
    with pytest.warns(Warning, match="FXQ314"):
        found = trained.convert()
    plain = fxquant.compile(model(), "int8", calibration_data=[x], target="onednn")
    assert scales(found) == pytest.approx(scales(plain), rel=1e-2)
