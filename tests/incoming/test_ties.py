"""Tied weights: compiled right, counted and saved once where they are quantized alike, and told where they are not."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from torch import nn

import fxquant
from fxquant import preflight
from fxquant.numerics import sqnr_db
from fxquant.sizes import size_bytes
from support.asserts import untouched

PRESETS = ["int8", "int8-dynamic", "int8-weight-only"]


class Language(nn.Module):
    """The embedding is the output layer's weight."""

    def __init__(self):
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(64, 16), nn.Linear(16, 16), nn.Linear(16, 64, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(torch.relu(self.body(self.table(x))))


class Pair(nn.Module):
    """Two linear layers with one weight and two biases, behind a submodule each."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Sequential(nn.Linear(16, 16)), nn.Sequential(nn.Linear(16, 16))
        self.right[0].weight = self.left[0].weight

    def forward(self, x):
        return self.right(torch.relu(self.left(x)))


class TwoNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = self.first

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class ByData(Pair):
    """Two Parameters over one storage."""

    def __init__(self):
        super().__init__()
        self.right[0].weight = nn.Parameter(self.left[0].weight.data)


class ThreeUses(nn.Module):
    """The same tensor as a layer's weight, functionally, and under another layer's name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.b.weight = self.a.weight

    def forward(self, x):
        return torch.relu(self.a(x)) + nn.functional.linear(x, self.a.weight) + self.b(x)


def seeded(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


def inputs(kind):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 64, (32, 5), generator=generator) if kind is Language else torch.randn(
        32, 16, generator=generator
    )  # fmt: skip


def built(kind, policy, model=None):
    model = model or seeded(kind)
    with untouched(model):
        return fxquant.compile(model, policy, calibration_data=inputs(kind), target="x86")


def told(made):
    return [row.reason for row in made.ledger.notices if row.code == "FXQ217"]


ALIKE = [Pair, TwoNames, ByData, ThreeUses]


@pytest.mark.parametrize("policy", [*PRESETS, "float16"])
@pytest.mark.parametrize("kind", [Language, *ALIKE])
def test_a_tied_model_computes_the_same_and_its_file_gives_it_back(kind, policy, tmp_path):
    made = built(kind, policy)
    with torch.no_grad():
        assert sqnr_db(seeded(kind)(inputs(kind)), made(inputs(kind))) > 25
    loaded = fxquant.load(made.save(tmp_path / "tied.fxq.safetensors"))
    assert loaded(inputs(kind)).equal(made(inputs(kind)))
    assert loaded.size_bytes() == made.size_bytes()


@pytest.mark.parametrize("policy", [*PRESETS, "float16"])
@pytest.mark.parametrize("kind", ALIKE)
def test_what_is_quantized_alike_is_stored_once(kind, policy, tmp_path):
    made = built(kind, policy)
    if kind is TwoNames:  # one module, as its calls are told (FXQ218)
        assert told(made) == []
    else:
        assert told(made)[-1].endswith("quantize it alike: its codes are stored once")
    weights = {name: tensor for name, tensor in made.state_dict().items() if name.endswith("weight")}
    assert len(weights) > 1 and len({tensor.data_ptr() for tensor in weights.values()}) == 1
    with safe_open(made.save(tmp_path / "tied.fxq.safetensors"), "pt") as file:
        assert len([name for name in file.keys() if name.endswith("weight")]) == 1  # noqa: SIM118 - it is no dict


@pytest.mark.parametrize("policy", [*PRESETS, "float16"])
def test_the_tie_saves_the_bytes_of_one_layer(policy):
    apart = seeded(Pair)
    apart.right[0].weight = nn.Parameter(apart.right[0].weight.detach().flip(0))
    saved = built(Pair, policy, apart).size_bytes() - built(Pair, policy).size_bytes()
    assert saved == (16 * 16 * 2 if policy == "float16" else 16 * 16 + 16 * 4 + 16 * 8)


@pytest.mark.parametrize("policy", PRESETS)
def test_an_embedding_and_its_head_are_stored_twice_and_that_is_told_with_its_bytes(policy):
    made = built(Language, policy)
    [reason] = [reason for reason in told(made) if "stored 2 times" in reason]
    assert "'table' holds uint8 rows, 'head' holds int8 per channel" in reason
    extra = 64 * 16 + 64 * 4 + 64 * 8  # codes, scales, zero points of the head
    assert f"({extra:,} bytes more)" in reason


def test_a_tie_between_a_float_and_an_int8_layer_is_told(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('schema = 1\nignore = ["right.0"]\n[[rule]]\ntargets = ["*"]\nscheme = "int8"\n')
    made = built(Pair, str(recipe))
    [reason] = [reason for reason in told(made) if "stored 2 times" in reason]
    assert "'left.0' holds int8 per channel" in reason and "'right.0' holds float32" in reason


def test_a_tie_that_stays_float_is_as_it_was():
    model = seeded(Pair)
    made = fxquant.compile(model, "int8", calibration_data=inputs(Pair), target="x86", leaf_modules=[nn.Sequential])
    assert made.size_bytes() == size_bytes(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_two_parameters_over_one_storage_are_one_in_the_copy_and_in_the_size(dtype):
    model = seeded(ByData).to(dtype)
    model.right[0].weight.data = model.left[0].weight.data
    with untouched(model):
        copied = preflight.fork(model)
    assert copied.left[0].weight.data_ptr() == copied.right[0].weight.data_ptr() != model.left[0].weight.data_ptr()
    assert size_bytes(copied) == (16 * 16 + 2 * 16) * 4
    assert copied.right[0].weight.requires_grad


def test_the_report_says_the_tie(tmp_path):
    page = built(Pair, "int8").report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "its codes are stored once" in page
