"""Weights in groups and small floats in files: what does not fit together is refused before memory is spent on it."""

from __future__ import annotations

import time
from functools import cache

import pytest
import torch
from torch import nn
from torch.ao.quantization import QConfigMapping

import fxquant
from fxquant.artifact import container
from fxquant.artifact.saving import to_bytes
from fxquant.errors import ArtifactError
from support.saved import edited, first


@cache
def saved(weight: str, activation: str | None = None, *, dynamic: bool | None = None, bits: int | None = None) -> bytes:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 4, bias=False), nn.Linear(4, 3)).eval()
    qconfig = fxquant.qconfig(weight, activation, dynamic=dynamic, activation_bits=bits)
    x = torch.randn(32, 10)
    return to_bytes(fxquant.compile(model, QConfigMapping().set_global(qconfig), calibration_data=[x], target="x86"))


def refused(data: bytes, folder) -> ArtifactError:
    path = folder / "m.fxq.safetensors"
    path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(ArtifactError) as caught:
        fxquant.load(path)
    assert time.process_time() - started < 5
    return caught.value


def with_tensor(data: bytes, name: str, tensor: torch.Tensor) -> bytes:
    contents = container.read(data, "the file")
    return container.write(contents.text, contents.tensors() | {name: tensor})


def setting(target: str, place: int, value: object):
    def edit(facts) -> None:
        first(facts, target)[3][place] = value

    return edit


GROUPS = "fxq.dequantize_groups"


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (3, 0, "its group size is 0, its rows have 10 values"),
        (3, 1 << 40, "its group size is 1099511627776"),
        (3, 11, "its group size is 11"),
        (3, True, "its group size is True"),
        (3, None, "its group size is None"),
        (4, ["t", 4, 12], "are not those of a weight [4, 12]"),
        (4, ["t", 4, 1 << 30], "are not those of a weight"),
        (4, ["t", 1 << 30, 10], "are not those of a weight"),
        (4, ["t", 4, 0], "its shape is (4, 0)"),
        (4, ["t", 4, -10], "its shape is (4, -10)"),
        (4, ["t"], "its shape is ()"),
        (4, ["l", 4, 10], "its shape is [4, 10]"),
        (4, 7, "its shape is 7"),
        (2, "%0", "are no tensors of the file"),
        (1, "%0", "are no tensors of the file"),
    ],
)
def test_groups_that_do_not_fit_their_codes_are_refused(place, value, told, tmp_path):
    error = refused(edited(saved("int4"), setting(GROUPS, place, value)), tmp_path)
    assert error.code == "FXQ605" and told in error.message


@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        ("0.weight", torch.zeros(4, 5, dtype=torch.int8), "torch.int8 codes [4, 5]"),
        ("0.weight", torch.zeros(4, 6, dtype=torch.uint8), "torch.uint8 codes [4, 6]"),
        ("0.weight", torch.zeros(4, 5, 1, dtype=torch.uint8), "torch.uint8 codes [4, 5, 1]"),
        ("0.weight_scale", torch.ones(4, 2).half(), "its scales are torch.float16 [4, 2]"),
        ("0.weight_scale", torch.ones(4, 1).double(), "its scales are torch.float64 [4, 1]"),
        ("0.weight_scale", torch.zeros(4, 1), "a scale is not from"),
        ("0.weight_scale", torch.full((4, 1), torch.nan), "a scale is not from"),
        ("0.weight_scale", torch.full((4, 1), -1.0), "a scale is not from"),
    ],
)
def test_codes_and_scales_of_another_form_are_refused(name, tensor, told, tmp_path):
    error = refused(with_tensor(saved("int4"), name, tensor), tmp_path)
    assert error.code == "FXQ605" and told in error.message


def test_zero_points_beyond_four_bits_are_refused(tmp_path):
    model, x = nn.Sequential(nn.Linear(10, 4)).eval(), torch.randn(8, 10)
    mapping = QConfigMapping().set_global(fxquant.qconfig("int4", symmetric=False))
    compiled = fxquant.compile(model, mapping, example_inputs=(x,), target="x86")
    data = to_bytes(compiled)
    assert fxquant.load(compiled.save(tmp_path / "m.fxq.safetensors"))(x).equal(compiled(x))
    for tensor in (torch.full((4, 1), 16, dtype=torch.uint8), torch.zeros(4, 1), torch.zeros(4, 2, dtype=torch.uint8)):
        error = refused(with_tensor(data, "0.weight_zero_point", tensor), tmp_path)
        assert error.code == "FXQ605" and "its zero points are" in error.message


FLOATS = "fxq.dequantize_floats"


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (2, 9, "e9m2 is no format"),
        (2, 0, "e0m2 is no format"),
        (3, 40, "e3m40 is no format"),
        (2, "=0x1.8000000000000p+1", "e3.0m2 is no format"),
        (3, 8, "its codes are torch.uint8, those of e3m8 are torch.int16"),
        (4, 2, "its axis is 2, its tensor has 2 dimensions"),
        (4, -1, "its axis is -1"),
        (4, 1, "its scales are torch.float32 [4], not float32 [10]"),
        (4, None, "its scales are torch.float32 [4], not float32 []"),
    ],
)
def test_formats_that_are_none_are_refused(place, value, told, tmp_path):
    error = refused(edited(saved("e3m2"), setting(FLOATS, place, value)), tmp_path)
    assert error.code == "FXQ605" and told in error.message


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [(1, "=0x0p+0", "scale"), (1, "=nan", "its scale is nan"), (1, 1, "its scale is 1"), (2, 0, "e0m2 is no format")],
)
def test_activations_in_formats_that_are_none_are_refused(place, value, told, tmp_path):
    data = saved("e3m2", "float8_e5m2")
    assert refused(edited(data, setting("fxq.simulate_float", place, value)), tmp_path).code in ("FXQ604", "FXQ605")


def test_dynamic_formats_and_bits_that_are_none_are_refused(tmp_path):
    data = saved("int8", "e3m2", dynamic=True)
    assert "e0m2 is no format" in refused(edited(data, setting("fxq.choose_float_scale", 1, 0)), tmp_path).message
    data = saved("int8", "uint8", dynamic=True, bits=4)
    for bits in (1, 9, 1 << 40, None):
        error = refused(edited(data, setting("fxq.choose_qparams", 2, bits)), tmp_path)
        assert error.code == "FXQ605" and "its bits are" in error.message


def test_a_file_of_int4_weights_costs_no_more_than_eight_times_its_bytes():
    """A group as long as a row at most: padding cannot grow a small file."""
    data = saved("int4")
    assert len(data) < 20_000
    assert first_arguments(data)[3] <= 10


def first_arguments(data: bytes) -> list[object]:
    found: list[object] = []
    edited(data, lambda facts: found.extend(first(facts, GROUPS)[3]))
    return found
