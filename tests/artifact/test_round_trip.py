"""I24: what is loaded computes the same bits and saves to the same bytes, for every model, preset and engine."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import fxquant
from fxquant.artifact.saving import to_bytes
from fxquant.errors import ContractError, LimitError, UnmeasurableError
from fxquant.graphs.snapshot import GraphSnapshot
from support.asserts import assert_same, fingerprint, untouched
from support.compiling import ENGINES, compiled
from support.models import MODELS
from support.models.signatures import Answer
from support.saved import model, saved

PRESETS = ("int8", "int8-dynamic", "int8-weight-only", "float16")
TRACEABLE = {name: case for name, case in MODELS.items() if case.is_traceable}
OF_EACH_KIND = ("mlp", "lstm", "gru", "encoder", "unet", "counts_calls", "inplace_view", "two_inputs", "mobilenet_v3")


def assert_same_graph(loaded: GraphSnapshot, ours: GraphSnapshot) -> None:
    """A file keeps the names of the user's files, not their folders. What no rule tells a node gives is unknown there."""
    assert len(loaded) == len(ours)
    for found, node in zip(loaded, ours, strict=True):
        values = node.values if found.values else ()
        assert found == replace(node, where=os.path.basename(node.where), values=values)


def assert_loads(ours: fxquant.CompiledModel, case, folder: Path) -> fxquant.CompiledModel:
    path = ours.save(folder / "m.fxq.safetensors")
    before = path.read_bytes()
    loaded = fxquant.load(path, types=[Answer])
    assert to_bytes(loaded) == before, "saved again it has other bytes"
    assert list(loaded.ledger) == list(ours.ledger)
    assert repr(loaded) == repr(ours)
    for stage in ("converted", "lowered"):
        assert_same_graph(loaded.snapshot(stage), ours.snapshot(stage))
    assert_same(dict(sorted(loaded.state_dict().items())), dict(sorted(ours.state_dict().items())))
    args, kwargs = case.inputs(7, 3), case.arguments(7, 3)
    twin = copy.deepcopy(ours)  # a model that counts its calls is not called for the others
    for _ in range(2):
        assert_same(
            loaded(*copy.deepcopy(args), **copy.deepcopy(kwargs)), twin(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        )
    return loaded


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", TRACEABLE)
def test_every_model_comes_back_to_the_bit(name, preset, tmp_path):
    assert_loads(model(name, preset), TRACEABLE[name], tmp_path)


OTHERS = [target for target in ENGINES if target != "x86"]


@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("name", TRACEABLE)
def test_and_on_the_other_engines(name, target, tmp_path):
    assert_loads(compiled(TRACEABLE[name], "int8", target=target), TRACEABLE[name], tmp_path)


@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("preset", PRESETS[1:])
@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_and_in_every_mode(name, preset, target, tmp_path):
    assert_loads(compiled(TRACEABLE[name], preset, target=target), TRACEABLE[name], tmp_path)


@pytest.mark.parametrize("name", ["mlp", "encoder", "unet"])
@pytest.mark.parametrize("target", ENGINES)
def test_a_model_is_lowered_for_another_engine_and_says_so(name, target, tmp_path):
    ours = model(name)
    path = ours.save(tmp_path / "m.fxq.safetensors", probe=True)
    loaded = fxquant.load(path, target=target, check_probe=True)
    assert loaded.target == target
    native = [row for row in loaded.ledger.layers if "runs " in row.reason]
    assert native and all(row.reason.endswith(f"on {target}") for row in native)
    with torch.no_grad():
        expected, found = ours(*MODELS[name].inputs(3, 8)), loaded(*MODELS[name].inputs(3, 8))
    assert fxquant.sqnr_db(expected, found) > 15


def test_a_converted_model_is_saved_unlowered():
    ours = compiled(MODELS["mlp"], passes=fxquant.default_pipeline().without("lower-native"))
    assert ours.stage is fxquant.Stage.CONVERTED
    data = to_bytes(ours)
    assert b"CONVERTED" in data


def test_a_converted_model_comes_back_converted(tmp_path):
    ours = compiled(MODELS["mlp"], passes=fxquant.default_pipeline().without("lower-native"))
    loaded = fxquant.load(ours.save(tmp_path / "m.fxq.safetensors"))
    assert loaded.stage is fxquant.Stage.CONVERTED
    assert_same(loaded(*MODELS["mlp"].inputs(5)), ours(*MODELS["mlp"].inputs(5)))
    assert "The converted graph" in loaded.report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(loaded.snapshot()) == len(loaded.graph_module.graph.nodes)


def test_what_the_parity_check_found_is_kept(tmp_path):
    """A layer that the engine computes wrongly stays float after loading, although no example is there to check it."""
    ours = model("transpose_kernel_two")
    assert [row.code for row in ours.ledger.layers] == ["FXQ505"]
    loaded = fxquant.load(ours.save(tmp_path / "m.fxq.safetensors"))
    assert [row.code for row in loaded.ledger.layers] == ["FXQ505"]
    assert_same(loaded(*MODELS["transpose_kernel_two"].inputs(2)), ours(*MODELS["transpose_kernel_two"].inputs(2)))


def test_a_probe_checks_parity_where_it_is_loaded(tmp_path, monkeypatch):
    """As if this machine's kernels were wrong: with a probe each layer is held to the canonical graph again."""
    from fxquant.passes import _parity

    path = model("mlp").save(tmp_path / "m.fxq.safetensors", probe=True)
    monkeypatch.setattr(_parity, "_steps", lambda value, expected: 2.0)
    assert "FXQ505" not in {row.code for row in fxquant.load(path).ledger.layers}, "it ran without being asked to"
    loaded = fxquant.load(path, check_probe=True)
    assert {row.code for row in loaded.ledger.layers if row.op == "Linear"} == {"FXQ505"}


def test_without_an_example_there_is_no_probe(tmp_path):
    ours = fxquant.compile(nn.Sequential(nn.Linear(4, 4)).eval(), "int8-dynamic")
    with pytest.raises(ContractError, match="no example"):
        ours.save(tmp_path / "m.fxq.safetensors", probe=True)


def test_a_calibrating_model_cannot_be_saved(tmp_path):
    ours = fxquant.compile(nn.Sequential(nn.Linear(4, 4)).eval(), "int8")
    with pytest.raises(ContractError, match="nothing to save yet"):
        ours.save(tmp_path / "m.fxq.safetensors")
    assert not list(tmp_path.iterdir())


SCRIPT = """
import hashlib, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from support.saved import saved
for name in ("mlp", "encoder", "shared_conv_norm", "lstm"):
    print(name, hashlib.sha256(saved(name)).hexdigest())
"""


def test_i23_two_processes_write_the_same_bytes():
    tests = str(Path(__file__).resolve().parents[1])
    seen = []
    for seed in ("0", "54321"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": tests}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        seen.append(done.stdout)
    assert seen[0] == seen[1] and seen[0].count("\n") == 4


def test_the_library_of_the_format_reads_the_same_tensors(tmp_path):
    """Anyone's safetensors reads the file: plain integers, no quantized dtypes."""
    ours = model("mlp")
    found = safetensors.torch.load_file(ours.save(tmp_path / "m.fxq.safetensors"))
    assert_same(dict(sorted(found.items())), dict(sorted(ours.state_dict().items())))
    assert torch.int8 in {tensor.dtype for tensor in found.values()}


# What a loaded model can and cannot do --------------------------------------------------------------------------------


def test_a_loaded_model_begins_with_its_canonical_graph(tmp_path):
    loaded = fxquant.load(model("mlp").save(tmp_path / "m.fxq.safetensors"))
    assert loaded.diff().counts
    with pytest.raises(ContractError) as caught:
        loaded.snapshot("traced")
    assert caught.value.code == "FXQ402" and "not in its file" in caught.value.message
    with pytest.raises(ContractError, match="finished"):
        loaded._finish(None, None, 0)


def test_it_is_measured_against_a_float_model_that_is_handed_in(tmp_path):
    loaded = fxquant.load(model("mlp").save(tmp_path / "m.fxq.safetensors"))
    with pytest.raises(UnmeasurableError):
        fxquant.measure(loaded, inputs=MODELS["mlp"].inputs())
    found = fxquant.measure(loaded, model=MODELS["mlp"].make(), inputs=MODELS["mlp"].inputs())
    assert found.output_sqnr_db > 20 and [layer.op for layer in found.layers] == ["ReLU", "ReLU", "Linear"]


def test_it_draws_reports_and_copies(tmp_path):
    loaded = fxquant.load(model("mlp").save(tmp_path / "m.fxq.safetensors"))
    assert "digraph" in loaded.draw().dot
    page = loaded.report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Nothing was measured. FXQ313" in page
    twin = copy.deepcopy(loaded)
    assert_same(twin(*MODELS["mlp"].inputs(4)), loaded(*MODELS["mlp"].inputs(4)))


def test_the_guard_is_kept(tmp_path):
    ours = compiled(MODELS["mlp"], guard_inputs=True)
    loaded = fxquant.load(ours.save(tmp_path / "m.fxq.safetensors"))
    with pytest.raises(fxquant.FxQuantError) as caught:
        loaded(torch.full((1, 8), float("nan")))
    assert caught.value.code == "FXQ302"


# Models of other shapes ------------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """Masks with -inf, slices, dtypes, shapes, keywords, several outputs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("causal", torch.triu(torch.ones(6, 6, dtype=torch.bool), 1))
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x, scale: float = 2.0, *, flip: bool = False):
        scores = self.fc(x).masked_fill(self.causal, float("-inf")).softmax(-1)
        y = torch.einsum("ij,kj->ik", scores, x)[..., 1:5:2]
        shape = y.shape[0]
        return {"y": y.to(torch.float64), 3: (F.pad(y, (0, 1)).flip(-1), [y.argmax(-1), shape, None, "done"])}


def test_arguments_of_every_kind_come_back(tmp_path):
    net = Everything().eval()
    ours = fxquant.compile(net, "int8", calibration_data=[torch.randn(6, 6) for _ in range(4)], target="x86")
    loaded = fxquant.load(ours.save(tmp_path / "m.fxq.safetensors"))
    x = torch.randn(6, 6)
    assert_same(loaded(x), ours(x))
    assert_same(loaded(x=x, scale=2.0), ours(x))
    with pytest.raises(fxquant.FxQuantError) as caught:
        loaded(x, 3.0)
    assert caught.value.code == "FXQ108"


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 8))

    def forward(self, x):
        return x @ self.table.t() @ self.table, self.table


def test_channels_last_weights_and_ties_are_kept(tmp_path):
    conv = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU()).eval().to(memory_format=torch.channels_last)
    ours = fxquant.compile(conv, {"": None}, calibration_data=[torch.randn(2, 4, 9, 9)], target="x86")
    loaded = fxquant.load(ours.save(tmp_path / "m.fxq.safetensors"))
    x = torch.randn(3, 4, 9, 9)
    assert_same(loaded(x), ours(x))
    strides = {name: tensor.stride() for name, tensor in ours.canonical.state_dict().items()}
    assert {name: tensor.stride() for name, tensor in loaded.canonical.state_dict().items()} == strides


def test_one_storage_under_two_names_is_written_once_and_shared_again(tmp_path):
    net = nn.ModuleDict({"a": nn.Linear(64, 64), "b": nn.Linear(64, 64)})
    net["b"].weight = net["a"].weight

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = net

        def forward(self, x):
            return self.parts["b"](torch.tanh(self.parts["a"](x)))

    ours = fxquant.compile(Both().eval(), {"": None}, calibration_data=[torch.randn(4, 64)], target="x86")
    path = ours.save(tmp_path / "m.fxq.safetensors")
    loaded = fxquant.load(path)
    state = loaded.canonical.state_dict()
    assert state["parts.a.weight"].data_ptr() == state["parts.b.weight"].data_ptr()
    assert path.stat().st_size < 1.5 * 64 * 64 * 4 + 8192


def test_a_module_that_is_the_whole_model_gives_back_its_tuple(tmp_path):
    ours = fxquant.compile(nn.LSTM(4, 4).eval(), "float16", example_inputs=torch.randn(3, 2, 4))
    loaded = fxquant.load(ours.save(tmp_path / "m.fxq.safetensors"))
    x = torch.randn(3, 2, 4)
    assert_same(loaded(x), ours(x))


class Point(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@dataclass
class Pair:
    left: torch.Tensor
    right: Point


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        y = self.fc(x)
        return Pair(y, Point(y + 1, y * 2))


def test_the_users_own_types_are_handed_in(tmp_path):
    ours = fxquant.compile(Nested().eval(), "int8-dynamic", example_inputs=torch.randn(2, 4))
    path = ours.save(tmp_path / "m.fxq.safetensors")
    x = torch.randn(2, 4)
    found = fxquant.load(path, types=[Pair, Point])(x)
    assert isinstance(found, Pair) and isinstance(found.right, Point)
    assert_same(found, ours(x))


def test_the_files_size_stays_near_the_payload(tmp_path):
    """At most 1.05 of the payload for models of a real size; small ones are mostly names."""
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(512, 512), nn.ReLU()))).eval()
    ours = fxquant.compile(net, "int8-weight-only", example_inputs=torch.randn(2, 512))
    assert ours.save(tmp_path / "m.fxq.safetensors").stat().st_size <= 1.05 * ours.size_bytes()


def test_loading_leaves_the_world_as_it_was(tmp_path):
    path = model("mlp").save(tmp_path / "m.fxq.safetensors")
    with untouched():
        fxquant.load(path)
        with pytest.warns(fxquant.FxQuantWarning, match="^FXQ506 .*'qnnpack' may give other numbers"):
            fxquant.load(path, target="qnnpack")


def test_saving_leaves_the_model_as_it_was(tmp_path):
    ours = model("encoder")
    before = fingerprint(ours.canonical), fingerprint(ours.graph_module), list(ours.ledger)
    ours.save(tmp_path / "m.fxq.safetensors", probe=True)
    assert (fingerprint(ours.canonical), fingerprint(ours.graph_module), list(ours.ledger)) == before


def test_a_file_beyond_every_limit_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "m.fxq.safetensors"
    with path.open("wb") as file:
        file.truncate(2**36 + 1)  # a hole: it takes no room
    with pytest.raises(LimitError) as caught:
        fxquant.load(path)
    assert caught.value.code == "FXQ607"


def test_saved_bytes_name_no_folder():
    assert str(Path(__file__).resolve().parents[1]).encode() not in saved("mlp")
