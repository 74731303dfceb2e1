"""Kernels give codes in channels-last order; what follows must read them so, and the parity check must feed them so.

qnnpack's clamping (relu6, hardtanh, clamp) reads channels-last codes as if they lay in the plain order, and its softmax
fails on them (torch 2.13): these get contiguous codes.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.passes._parity import _like
from fxquant.torch_ao import engine, quiet
from support.compiling import ENGINES, compiled, run
from support.data import images
from support.models import FAMILIES
from support.models.case import Case
from support.small import Applied

PICTURE = images(8, 4)
AFTER = {
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.5, 0.7),
    "clamp": lambda x: torch.clamp(x, -0.5, 0.7),
    "clamp_method": lambda x: x.clamp(-0.5, 0.7),
    "softmax": nn.Softmax(-1),
    "leaky_relu": nn.LeakyReLU(0.1),
    "hardswish": nn.Hardswish(),
    "relu_then_max_pool": nn.Sequential(nn.ReLU6(), nn.MaxPool2d(2)),
    "mean": lambda x: F.relu6(x).mean((2, 3)),
}


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("name", AFTER)
def test_what_follows_a_convolution_gives_the_canonical_result(name, target):
    after = AFTER[name]
    parts = (partial(nn.Conv2d, 4, 8, 3), *((lambda: after,) if isinstance(after, nn.Module) else ()))
    function = (lambda x, conv, act: act(conv(x))) if isinstance(after, nn.Module) else (lambda x, conv: after(conv(x)))
    case = Case(lambda: Applied(function, *(part() for part in parts)), PICTURE)
    model = compiled(case, "int8", target=target)
    x = case.inputs(3, 16)
    with torch.no_grad():
        (expected,) = model.canonical(*x)
    found = run(model, target, *x)
    steps = [node.args[1] for node in model.canonical.graph.nodes if node.name.startswith("quantize")]
    assert float((found - expected).abs().max()) <= 2.5 * max(steps)  # one step of the convolution, one of what follows


def test_mobilenet_on_qnnpack_is_as_good_as_on_its_neighbours():
    """Its ReLU6 read channels-last codes in the wrong order: it had 4 dB where the others had 19 and 22."""
    from fxquant.numerics import sqnr_db

    case = FAMILIES["mobilenet_v2"]
    model, x = case.make(), case.inputs(0, 16)
    with torch.no_grad():
        quality = {name: sqnr_db(model(*x), run(compiled(case, "int8", target=name), name, *x)) for name in ENGINES}
    assert min(quality.values()) > max(quality.values()) - 6


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_the_parity_check_hands_on_codes_in_the_order_that_the_engine_gave_them(shape: tuple[int, ...]):
    order = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    with engine("fbgemm"), quiet():
        given: Tensor = torch.quantize_per_tensor(torch.randn(shape), 0.1, 3, torch.quint8)
        codes = torch.randint(0, 255, shape, dtype=torch.uint8)
        for value in (given, given.contiguous(memory_format=order)):
            handed = _like(value, codes)
            assert handed.stride() == value.stride() and torch.equal(handed.int_repr(), codes)
            assert (handed.q_scale(), handed.q_zero_point()) == (value.q_scale(), value.q_zero_point())
