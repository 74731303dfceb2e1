"""torch.autocast in forward(), around compile() and around calls: left out, off, and told."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import fxquant
from fxquant.numerics import sqnr_db
from support.asserts import untouched


def seeded(kind, *args):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(*args).eval()


def rows():
    return torch.randn(32, 8, generator=torch.Generator().manual_seed(1))


def built(model, policy="int8", **options):
    with untouched(model):
        return fxquant.compile(model, policy, **{"calibration_data": rows(), "target": "x86", **options})


def notices(compiled):
    return {row.code: row.reason for row in compiled.ledger.notices if row.code != "FXQ507"}


class Auto(nn.Module):
    def __init__(self, device="cpu"):
        super().__init__()
        self.body, self.head, self.device = nn.Linear(8, 16), nn.Linear(16, 4), device

    def forward(self, x):
        with torch.autocast(self.device, dtype=torch.bfloat16):
            y = torch.relu(self.body(x))
        with torch.autocast(self.device, enabled=False):
            return self.head(y.float())


class Decorated(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 4)

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x):
        return self.head(x)


@pytest.mark.parametrize("make", [Auto, lambda: Auto("cuda"), Decorated])
def test_autocast_in_forward_is_left_out_and_told_once(make):
    model = seeded(make)
    made = built(model)
    assert "autocast(" in notices(made)["FXQ235"] and "bfloat16" in notices(made)["FXQ235"]
    assert [row.code for row in made.ledger.notices].count("FXQ235") == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own word about a CUDA that is not there
        expected = model(rows()).float()
    assert made(rows()).dtype is torch.float32 and sqnr_db(expected, made(rows())) > 25


def test_autocast_around_compile_and_around_calls_changes_nothing():
    model = seeded(nn.Sequential, nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))
    plain = built(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = built(model)
        assert torch.is_autocast_enabled("cpu"), "the caller's again"
        found = inside(rows())
        waiting = fxquant.compile(model, "int8", target="x86")
        assert waiting(rows()).dtype is torch.float32
    assert found.equal(plain(rows())) and found.dtype is torch.float32
