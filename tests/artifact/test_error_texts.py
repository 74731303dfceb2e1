"""Every code of saved files: the exact text that a user reads, one golden file each. Read each line before committing it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

import fxquant
from fxquant import targets
from fxquant.artifact.inspecting import check
from fxquant.errors import FxQuantError
from support.compiling import compiled
from support.models import MODELS
from support.saved import edited, first, model, saved, with_text

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
DATA = saved("mlp")


def _written(folder: Path, data: bytes) -> Path:
    path = folder / "m.fxq.safetensors"
    path.write_bytes(data)
    return path


def _bad_weights(folder: Path) -> object:
    torch.save({"weight": torch.ones(3, 4)}, folder / "w.pt")
    return fxquant.load_weights(torch.nn.Linear(4, 2), folder / "w.pt")


SCENARIOS = {
    "FXQ601": lambda folder: fxquant.load(_written(folder, b"PK\x03\x04" + bytes(60))),
    "FXQ601-missing": lambda folder: fxquant.load(folder / "m.fxq.safetensors"),
    "FXQ602": lambda folder: fxquant.load(_written(folder, DATA[:4096])),
    "FXQ603": lambda folder: fxquant.load(_written(folder, DATA[:-1] + b"\x55")),
    "FXQ604": lambda folder: check(with_text(DATA, "[]")),
    "FXQ604-schema": lambda folder: check(edited(DATA, lambda f: f.update({"schema": 7, "producer": "9.1"}))),
    "FXQ605-op": lambda folder: check(edited(DATA, lambda f: first(f, "nn.linear").__setitem__(2, "os.system"))),
    "FXQ605-scale": lambda folder: check(
        edited(DATA, lambda f: first(f, "fxq.quantize_per_tensor")[3].__setitem__(1, "=nan"))
    ),
    "FXQ606": lambda folder: model("mlp").save(folder),
    "FXQ607": lambda folder: check(edited(DATA, lambda f: f.update({"nodes": [0] * 100_001}))),
    "FXQ609": lambda folder: fxquant.load(compiled(MODELS["dataclass_output"]).save(folder / "m.fxq.safetensors")),
    "FXQ611": lambda folder: fxquant.compile(
        Fourier().eval(), "int8-dynamic", example_inputs=torch.randn(2, 4)
    ).save(folder / "m.fxq.safetensors"),
    "FXQ612": _bad_weights,
}  # fmt: skip


class Fourier(torch.nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs()


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_text_is_the_golden_one(name, tmp_path):
    with pytest.raises(FxQuantError) as caught:
        SCENARIOS[name](tmp_path)
    assert caught.value.code == name.split("-")[0]
    text = str(caught.value).replace(str(tmp_path), "FOLDER") + "\n"
    text = re.sub(r"of \d+,\d+$", "of SIZE", text, flags=re.MULTILINE)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FXQUANT_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_fxq506_a_cpu_without_vnni_is_told_unless_a_probe_is_checked(tmp_path, monkeypatch):
    """As if compiled on a CPU with VNNI and loaded on one without."""
    monkeypatch.setattr(targets, "isa", lambda: targets.Isa("x86_64", True, True, False, False, False))
    path = tmp_path / "m.fxq.safetensors"
    path.write_bytes(edited(saved("mlp"), lambda facts: facts.update({"machine": ["x86_64", True]})))
    with pytest.warns(fxquant.FxQuantWarning, match="^FXQ506 the model was compiled on a CPU with VNNI"):
        fxquant.load(path)
    path.write_bytes(edited(saved("mlp", probe=True), lambda facts: facts.update({"machine": ["x86_64", True]})))
    with pytest.warns(fxquant.FxQuantWarning, match="not checked here"):
        fxquant.load(path)  # what stands in a file is not run unasked
    fxquant.load(path, check_probe=True)  # a warning would be an error here
    path.write_bytes(edited(saved("mlp"), lambda facts: facts.update({"machine": ["x86_64", False]})))
    fxquant.load(path)
