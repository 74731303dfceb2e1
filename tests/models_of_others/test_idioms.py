"""Idioms of other people's models that once broke the compiler: each compiles, and its numbers are right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from fxquant.model import CompiledModel
from fxquant.numerics import sqnr_db
from fxquant.passes._packing import PACKED
from support.asserts import untouched


def _compiled(model: nn.Module, *inputs: Any, preset: str = "int8", floor_db: float = 25.0) -> CompiledModel:
    model = model.eval()
    with untouched(model):
        compiled = fxquant.compile(model, preset, calibration_data=[inputs], target="x86")
    with torch.no_grad():
        assert sqnr_db(model(*inputs), compiled(*inputs)) > floor_db
    assert all(row.effective and row.reason for row in compiled.ledger.layers)
    return compiled


def _effective(compiled: CompiledModel, module: str) -> str:
    return next(row.effective for row in compiled.ledger.layers if row.module == module)


class ViewAfterPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Linear(72, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv(x))
        return self.fc(x.view(x.size(0), -1))  # type: ignore[no-any-return]


def test_view_after_a_pool_takes_the_channels_last_result_of_the_kernels() -> None:
    torch.manual_seed(0)
    _compiled(ViewAfterPool(), torch.randn(8, 3, 8, 8))


class Tabular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(10, 4) for _ in range(3))
        self.fc = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.cat([table(x[:, i]) for i, table in enumerate(self.tables)], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("preset", ["int8", "int8-dynamic", "int8-weight-only"])
def test_a_column_of_indices_is_looked_up_natively(preset: str) -> None:
    torch.manual_seed(0)
    compiled = _compiled(Tabular(), torch.randint(0, 10, (16, 3)), preset=preset)
    assert _effective(compiled, "tables.1") == "int8"


def test_a_layer_whose_kernel_fails_stays_float_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(PACKED, nn.functional.linear, (PACKED[nn.functional.linear][0], broken, broken))
    torch.manual_seed(0)
    compiled = _compiled(nn.Sequential(nn.Linear(8, 4), nn.Tanh()), torch.rand(16, 8))
    row = next(row for row in compiled.ledger.layers if row.module == "0")
    assert (row.effective, row.code) == ("float32", "FXQ505")
    assert "fails" in row.reason


def test_prelu_after_pixel_shuffle() -> None:
    torch.manual_seed(0)
    _compiled(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()), torch.randn(8, 3, 8, 8))


class SplitHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.size()[:-1], 3, 4)
        heads = self.query(x).view(*shape).permute(0, 2, 1, 3).contiguous()
        return heads.view(*((*heads.shape[:-2], 20)))  # type: ignore[no-any-return]


def test_a_shape_put_together_from_sizes_can_be_unpacked() -> None:
    torch.manual_seed(0)
    compiled = _compiled(SplitHeads(), torch.randn(8, 5, 12))
    assert compiled(torch.randn(2, 5, 12)).shape == (2, 3, 20)


class CausalAttention(nn.Module):
    """As in GPT by hand: a scale from a size, a mask of -inf."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.qkv, self.proj, self.fill = nn.Linear(12, 36), nn.Linear(12, 12), fill
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.size(1)
        q, k, v = self.qkv(x).split(12, dim=2)
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:length, :length] == 0, self.fill)
        return self.proj(torch.softmax(scores, dim=-1) @ v)  # type: ignore[no-any-return]


@pytest.mark.parametrize("fill", [float("-inf"), -1e9, torch.finfo(torch.float32).min])
def test_masked_scores_go_to_their_softmax_in_float(fill: float) -> None:
    torch.manual_seed(0)
    compiled = _compiled(CausalAttention(fill), 3 * torch.randn(8, 10, 12), floor_db=22.0)
    row = next(row for row in compiled.ledger.layers if row.op == "masked_fill")
    assert row.effective == "float32"


class PaddingMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        k = self.key(x)
        scores = k @ k.transpose(-2, -1) + (1.0 - attention_mask[:, None, :].float()) * -10000.0
        return torch.softmax(scores, dim=-1) @ k  # type: ignore[no-any-return]


def test_a_padding_mask_holds_although_calibration_saw_no_padding() -> None:
    torch.manual_seed(0)
    model, x = PaddingMask().eval(), torch.randn(8, 6, 12)
    compiled = fxquant.compile(model, "int8", calibration_data=(x, torch.ones(8, 6)), target="x86")
    mask = torch.ones(8, 6)
    mask[:, 3:] = 0
    with torch.no_grad():
        assert sqnr_db(model(x, mask), compiled(x, mask)) > 22.0


class ComputedWeight(nn.Module):
    """Weight standardization, and a head that reads another layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        y = torch.nn.functional.conv2d(x, weight, self.conv.bias).mean((2, 3))
        return self.fc(torch.relu(y)) @ self.fc.weight  # type: ignore[no-any-return]


@pytest.mark.parametrize("preset", ["int8", "int8-dynamic", "int8-weight-only", "float16"])
def test_a_computed_weight_stays_float_and_a_weight_read_twice_is_whole(preset: str) -> None:
    torch.manual_seed(0)
    _compiled(ComputedWeight(), torch.randn(16, 3, 8, 8), preset=preset, floor_db=20.0)


@pytest.mark.parametrize(
    "model",
    [nn.LSTM(6, 4, batch_first=True), nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1)],
)
def test_a_layer_of_torch_that_cannot_be_traced_is_compiled_whole(model: nn.Module) -> None:
    model, x = model.eval(), torch.randn(4, 5, 6)
    compiled = fxquant.compile(model, "float16", target="x86", example_inputs=(x,))
    expected, found = model(x), compiled(x)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    assert next(row.op for row in compiled.ledger.layers) == type(model).__name__


class ScalarChain(nn.Module):
    """GoogLeNet's change of normalization, and a hard sigmoid by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x * 0.458 - 0.03)
        return y * (nn.functional.relu6(y + 3) / 6)


def test_steps_of_arithmetic_with_numbers_are_not_rounded_in_between() -> None:
    torch.manual_seed(0)
    compiled = _compiled(ScalarChain(), torch.randn(8, 3, 8, 8))
    targets = [node.target for node in compiled.canonical.graph.nodes]
    readers = [next(iter(node.users)).name for node in compiled.canonical.graph.nodes if node.name == "mul"]
    assert readers == ["sub"], f"{readers} in {targets}"


class ScaledSigmoid(nn.Module):
    """A regression head with a range, as in tabular models."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (5 * torch.sigmoid(self.fc(x)) + 1).flatten(1)


def test_arithmetic_after_a_sigmoid_is_not_held_to_the_range_of_the_sigmoid() -> None:
    torch.manual_seed(0)
    _compiled(ScaledSigmoid(), 2 * torch.randn(32, 8))


class Turned(nn.Module):
    """As in an MLP-Mixer: what a layer gives, turned by an attribute."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.fc, self.head, self.name = nn.Linear(8, 6), nn.Linear(16, 4), name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(getattr(self.fc(x), self.name))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "effective"), [("mT", "int8"), ("T", "float32")])
def test_an_attribute_that_is_a_transposed_tensor(name: str, effective: str) -> None:
    torch.manual_seed(0)
    compiled = _compiled(Turned(name), torch.randn(16, 8))
    (row,) = (row for row in compiled.ledger.layers if row.op == "getattr")
    assert row.effective == effective


class Shifted(nn.Module):
    """The smaller summand first."""

    def __init__(self, is_outer: bool) -> None:
        super().__init__()
        self.fc, self.shift, self.is_outer = nn.Linear(8, 8), nn.Linear(8, 8), is_outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift, y = self.shift(x).mean(1, keepdim=True), self.fc(x)
        return shift + (y.mean(2, keepdim=True) if self.is_outer else y)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("is_outer", "effective"), [(False, "int8"), (True, "float32")])
def test_a_sum_that_grows_beyond_its_first_summand_prints_nothing(
    is_outer: bool, effective: str, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    compiled = _compiled(Shifted(is_outer), torch.randn(4, 5, 8))
    (row,) = (row for row in compiled.ledger.layers if row.op == "add")
    assert row.effective == effective
    assert capfd.readouterr() == ("", "")


class Strongest(nn.Module):
    """Named fields of a pair, and the tensor without its gradient, as older code has it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        best = y.topk(2, dim=1)
        return y.max(1, keepdim=True).values * y.data + best.indices.float().mean() * best.values.mean()  # type: ignore[no-any-return]


def test_named_fields_of_a_result_have_a_form_in_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    compiled = _compiled(Strongest(), x, floor_db=20.0)
    compiled.save(tmp_path / "model.safetensors")
    assert torch.equal(fxquant.load(tmp_path / "model.safetensors")(x), compiled(x))
