"""Saved models on targets outside torch: where the engine is, where it is not, where it refuses, and where auto races."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import EngineUnavailableError
from fxquant.racing import VARIABLE
from fxquant.targets import resolve
from support.engines import choosy, failing, faithful, install, show

NATIVE = resolve("auto").engine
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(monkeypatch, tmp_path):
    """A model of openvino's, saved with its example, and its path."""
    install(monkeypatch, faithful())
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    ours = fxquant.compile(net, "int8", calibration_data=X, target="openvino")
    return ours, ours.save(tmp_path / "m.fxq.safetensors", probe=True)


def test_it_comes_back_on_its_target_with_the_same_numbers(saved):
    ours, path = saved
    loaded = fxquant.load(path)
    assert loaded.target == "openvino" and loaded.history[-1].name == "lower-openvino"
    assert torch.equal(loaded(X), ours(X)) and loaded.ledger.layers == ours.ledger.layers
    assert fxquant.load(path, check_probe=True).target == "openvino"


def test_the_same_bytes_whatever_it_runs_on(saved, tmp_path):
    ours, path = saved
    again = fxquant.load(path).save(tmp_path / "again.fxq.safetensors")
    assert fxquant.load(again).target == "openvino" == ours.target


def test_it_is_lowered_without_its_example_too(saved, monkeypatch):
    ours, path = saved

    def build(canonical, leaves, *, threads):
        assert [list(leaf.shape) for leaf in leaves] == [list(ours.program.example_leaves[0].shape)]
        assert not leaves[0].any()
        return faithful()(canonical, leaves, threads=threads)

    bare = ours.save(path.with_name("bare.fxq.safetensors"))
    install(monkeypatch, build)
    assert torch.equal(fxquant.load(bare)(X), ours(X))


def test_no_op_runs_before_the_call_where_the_graph_is_cut(saved, monkeypatch):
    ours, path = saved
    install(monkeypatch, choosy(torch.nn.functional.relu))
    monkeypatch.setattr("fxquant.passes._engine_graph._Recorder.values_on", lambda *_: pytest.fail("it ran"))
    assert torch.equal(fxquant.load(path)(X), ours(X))


def test_where_its_engine_is_not_it_is_fxq502_and_says_the_way_out(saved, monkeypatch):
    _, path = saved
    show(monkeypatch, {})
    with pytest.raises(EngineUnavailableError, match="openvino is not installed") as caught:
        fxquant.load(path)
    assert caught.value.code == "FXQ502" and "target='auto'" in caught.value.hint
    with pytest.warns(fxquant.FxQuantWarning, match="FXQ506"):
        assert fxquant.load(path, target="auto").target == NATIVE


def test_where_its_engine_refuses_it_the_native_one_runs_it_and_it_is_said(saved, monkeypatch):
    ours, path = saved
    install(monkeypatch, failing(RuntimeError("another version")))
    loaded = fxquant.load(path)
    assert loaded.target == NATIVE
    assert [row.reason for row in loaded.ledger.notices if row.code == "FXQ512"] == [
        f"openvino does not run this model: RuntimeError: another version; {NATIVE} runs it instead"
    ]
    assert fxquant.sqnr_db(ours(X), loaded(X)) > 30


def test_with_check_probe_an_engine_that_is_off_gives_way(saved, monkeypatch):
    _, path = saved
    install(monkeypatch, faithful(spoil=lambda value: value + 1))
    assert fxquant.load(path, check_probe=True).target == NATIVE
    assert fxquant.load(path).target == "openvino"  # nothing was run


def test_auto_races_where_the_probe_may_be_run_and_only_there(saved, monkeypatch):
    _, path = saved
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("fxquant.artifact.loading.SECONDS", 0.05)
    loaded = fxquant.load(path, target="auto", check_probe=True)
    (notice,) = [row for row in loaded.ledger.notices if row.code == "FXQ513"]
    assert "openvino" in notice.reason and NATIVE in notice.reason
    with pytest.warns(fxquant.FxQuantWarning, match="FXQ506"):
        calm = fxquant.load(path, target="auto")
    assert calm.target == NATIVE and not [row for row in calm.ledger.notices if row.code == "FXQ513"]


def test_a_native_model_is_loaded_for_a_target_outside_torch(monkeypatch, tmp_path):
    install(monkeypatch, faithful())
    torch.manual_seed(0)
    ours = fxquant.compile(nn.Sequential(nn.Linear(8, 4)).eval(), "int8", calibration_data=X, target=NATIVE)
    path = ours.save(tmp_path / "m.fxq.safetensors", probe=True)
    loaded = fxquant.load(path, target="openvino", check_probe=True)
    assert loaded.target == "openvino" and fxquant.sqnr_db(ours(X), loaded(X)) > 30
