"""What a clamp lets through is what the value before it is quantized for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxquant
from fxquant import qdq
from fxquant.numerics import sqnr_db
from fxquant.targets import has_saturation_risk, isa
from support.compiling import ENGINES


class Clamped(nn.Module):
    """conv → clamp → conv, where one channel of the first convolution is far wider than the clamp."""

    def __init__(self, clamp, gain=60.0):
        super().__init__()
        self.first, self.clamp, self.second = nn.Conv2d(3, 8, 3), clamp, nn.Conv2d(8, 4, 3)
        with torch.no_grad():
            self.first.weight[0].mul_(gain)

    def forward(self, x):
        return self.second(self.clamp(self.first(x)))


class AlsoRead(Clamped):
    """The value before the clamp goes on as well: it keeps its own range."""

    def forward(self, x):
        x = self.first(x)
        return self.second(self.clamp(x)) + x.mean()


class Pooled(Clamped):
    """A max pool keeps its input's codes, so the range before the clamp is not its own."""

    def forward(self, x):
        return self.second(self.clamp(F.max_pool2d(self.first(x), 2)))


class ByFunction(nn.Module):
    """The function in the place of the module."""

    def forward(self, x):
        return F.hardtanh(x, -2.0, 3.0)


CLAMPS = {
    "relu6": (nn.ReLU6, 0.0, 6.0),
    "hardtanh": (lambda: nn.Hardtanh(-0.5, 1.5), -0.5, 1.5),
    "function": (ByFunction, -2.0, 3.0),
}
LEAST = {"onednn": 28.0, "x86": 26.0, "fbgemm": 26.0, "qnnpack": 15.0}  # dB; qnnpack's weights share one scale


def made(kind, clamp, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(clamp, **options).eval()


def rows(seed, count=16):
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def compiled(model, target="onednn"):
    return fxquant.compile(model, "int8", calibration_data=[rows(1), rows(2)], target=target)


def quantizes(model):
    """(name of what is quantized, smallest and largest value that its codes stand for)."""
    for node in model.canonical.graph.nodes:
        if node.target is qdq.quantize_per_tensor:
            source, scale, zero_point, low, high, _ = node.args
            yield source.name, (low - zero_point) * scale, (high - zero_point) * scale


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("name", CLAMPS)
def test_a_value_that_only_a_clamp_reads_is_as_wide_as_the_clamp(name, target):
    clamp, low, high = CLAMPS[name]
    model = made(Clamped, clamp())
    found = compiled(model, target)
    with torch.no_grad():
        # with the range of the values before it: 12 to 18 dB of ReLU6, 4 to 6 of the hardtanh, 8 to 12 of the function
        assert sqnr_db(model(rows(3)), found(rows(3))) > LEAST[target]
    _input, *clamped, _output = quantizes(found)
    # kernels that saturate were given 7 bits: the clamp ends at the 128th of their codes, and stays to keep out the rest
    has_seven_bits = target == "fbgemm" or has_saturation_risk(target, isa())
    assert len(clamped) == (2 if has_seven_bits else 1)
    for _, least, most in clamped:
        step = (most - least) / 255
        end = least + 127 * step if has_seven_bits else most
        assert low - step <= least <= low + step and high - step <= end <= high + step
    assert not [row for row in found.ledger.layers if row.effective == "float32"]


def test_a_value_that_others_read_too_keeps_its_range():
    first, *_ = [high - low for name, low, high in quantizes(compiled(made(AlsoRead, nn.ReLU6()))) if name != "x"]
    assert first > 100.0


def test_a_range_that_a_max_pool_keeps_is_left_to_it():
    ranges = {name: high - low for name, low, high in quantizes(compiled(made(Pooled, nn.ReLU6()))) if name != "x"}
    assert ranges["conv2d"] > 100.0


def test_training_starts_from_the_range_of_the_clamp():
    model = made(Clamped, nn.ReLU6())
    trained = fxquant.compile(model, "int8", calibration_data=[rows(1), rows(2)], target="onednn", mode="qat")
    with pytest.warns(Warning, match="FXQ314"):
        found = trained.convert()
    with torch.no_grad():
        assert sqnr_db(model(rows(3)), found(rows(3))) > 28.0
