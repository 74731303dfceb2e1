"""Positions and boxes made of them stay float: they come out right at a size that calibration never saw."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.numerics import sqnr_db


class Detector(nn.Module):
    """Offsets from the cells of a grid, in pixels, as YOLO has them; and the grid itself, as SSD's priors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, stride=4, padding=1)

    def forward(self, x):
        y = self.body(x)
        height, width = y.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack((columns, rows), 2).view(1, height, width, 2).float()
        p = y.permute(0, 2, 3, 1).sigmoid()
        boxes = torch.cat(((p[..., :2] * 2 - 0.5 + grid) * 4, p[..., 2:]), -1)
        return boxes.view(boxes.shape[0], -1, 6), (grid + 0.5) / height


class Positioned(nn.Module):
    """A layer that reads positions added to what another gives: what a layer reads stays on codes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        y = self.first(x)
        return self.second(y + torch.arange(x.shape[1]).view(1, -1, 1) / 10)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    model = Detector().eval()
    return model, fxquant.compile(model, "int8", calibration_data=[torch.randn(8, 3, 16, 16)] * 2, target="onednn")


@pytest.mark.parametrize("size", [16, 64])
def test_boxes_are_right_at_any_size(detector, size):
    model, compiled = detector
    x = torch.randn(4, 3, size, size)
    with torch.no_grad():
        (boxes, grid), (found, found_grid) = model(x), compiled(x)
    assert sqnr_db(boxes, found) > 40 and torch.equal(grid, found_grid)


def test_the_row_says_why(detector):
    rows = [row for row in detector[1].ledger.layers if "counts positions" in row.reason]
    assert rows and all((row.effective, row.code) == ("float32", "FXQ209") for row in rows)


def test_a_layer_that_reads_positions_reads_codes():
    torch.manual_seed(0)
    x = torch.randn(8, 12, 6)
    compiled = fxquant.compile(Positioned().eval(), "int8", calibration_data=[x], target="onednn")
    (row,) = (row for row in compiled.ledger.layers if row.module == "second")
    assert row.effective == "int8"
