"""Idioms of other people's models that once broke the compiler: each compiles, and its numbers are right."""

from __future__ import annotations

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
