"""A package that is installed and does not import: the model runs elsewhere and the ledger says why; FXQ5xx else."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import EngineUnavailableError
from fxquant.racing import VARIABLE

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
BROKEN = {
    "a library is missing": ("raise ImportError('libtbb.so: no such file')", "libtbb.so: no such file"),
    "another numpy": ("raise ValueError('numpy.dtype size changed')", "ValueError: numpy.dtype size changed"),
    "a symbol is missing": ("raise OSError('undefined symbol')", "OSError: undefined symbol"),
    "half installed": ("", "No module named 'openvino.frontend'"),
    "broken off": ("def (", "SyntaxError: "),
    "it exits": ("import sys; sys.exit(7)", "SystemExit: 7"),
}


@pytest.fixture(params=BROKEN)
def why(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An `openvino` before the real one whose import goes wrong, and what is told of it."""
    code, told = BROKEN[request.param]
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(f"import warnings; warnings.warn('heard')\n{code}\n")
    (tmp_path / "openvino-2026.4.0.dist-info").mkdir()
    (tmp_path / "openvino-2026.4.0.dist-info" / "METADATA").write_text("Name: openvino\nVersion: 2026.4.0\n")
    for name in _imported():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(VARIABLE)
    yield told
    for name in _imported():  # what is half imported would stay for the tests after this one
        del sys.modules[name]


def _imported() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "openvino" or "engines.openvino" in name]


def compiled(**options: object) -> fxquant.CompiledModel:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # importing is silent
        return fxquant.compile(nn.Sequential(nn.Linear(16, 4)).eval(), "int8", calibration_data=X, **options)


def test_named_placed_in_a_race_strict_and_exported(why: str, tmp_path: Path) -> None:
    for options in ({}, {"place": True}):
        model = compiled(target="openvino", **options)
        (notice,) = [notice for notice in model.ledger.notices if notice.code == "FXQ511"]
        assert model.target == model.engine and f"is installed, but cannot be imported: {why}" in notice.reason
    (race,) = [n for n in compiled(race_targets=["openvino"], race_seconds=0.01).ledger.notices if n.code == "FXQ513"]
    assert "openvino is out (FXQ502" in race.reason and why in race.reason
    with pytest.raises(EngineUnavailableError) as caught:
        compiled(target="openvino", strict=True)
    assert caught.value.code == "FXQ502" and why in caught.value.message and caught.value.hint
    with pytest.raises(EngineUnavailableError) as caught:
        model.export(tmp_path / "model.xml")
    assert caught.value.code == "FXQ516" and why in caught.value.message
    assert not list(tmp_path.glob("model.*"))
