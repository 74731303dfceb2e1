"""Every code of exports: the exact text that a user reads, one golden file each.

`FXQUANT_REGENERATE=1 python -m pytest tests/exporting/test_error_texts.py` writes them anew; read each line then.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import FxQuantError
from support.formless import Counts

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _missing(patch, folder):
    patch.setitem(sys.modules, "onnx", None)
    patch.delitem(sys.modules, "fxquant.engines.onnx", raising=False)
    _compiled(nn.Linear(4, 4)).export(folder / "m.onnx")


def _formless(patch, folder):
    _compiled(Counts()).export(folder / "m.onnx")


def _unseen(patch, folder):
    fxquant.compile(nn.Linear(4, 4).eval(), "int8-dynamic").export(folder / "m.onnx")


def _compiled(model):
    return fxquant.compile(model.eval(), "int8-dynamic", example_inputs=(torch.ones(2, 4),))


TEXTS = {"FXQ516": _missing, "FXQ517": _formless, "FXQ517-shape": _unseen}


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_the_golden_one(name, monkeypatch, tmp_path):
    with pytest.raises(FxQuantError) as caught:
        TEXTS[name](monkeypatch, tmp_path)
    assert caught.value.code == name[:6] and not list(tmp_path.iterdir())
    text = re.sub(r"\S*formless\.py:\d+", "net.py:LINE", str(caught.value)) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FXQUANT_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
