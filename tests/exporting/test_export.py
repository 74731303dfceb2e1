"""Files for other programs: what they hold, who reads them, what is refused, and that no half file is left."""

from __future__ import annotations

import subprocess
import sys

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import fxquant
from fxquant import exporting
from fxquant.errors import ContractError, EngineUnavailableError, FxQuantError, LoweringError, UsageError
from fxquant.tools.bench.peers.by_openvino import core
from fxquant.tools.cli import run
from support.command import write_source
from support.formless import Bessel


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, image, shift):
        features = self.conv(image).relu().mean((2, 3))
        return {"logits": self.head(features) + shift, "features": features}


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(0)
    return torch.randn(2, 3, 6, 6), torch.randn(2, 2)


@pytest.fixture(scope="module")
def compiled(inputs):
    torch.manual_seed(0)
    return fxquant.compile(Net().eval(), "int8", calibration_data=[inputs], target="onednn")


@pytest.fixture(scope="module")
def bessel():
    return fxquant.compile(Bessel().eval(), "int8", calibration_data=[(torch.randn(2, 4),)], target="onednn")


def test_an_onnx_file_runs_elsewhere_under_the_users_names(compiled, inputs, tmp_path):
    path = compiled.export(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["image", "shift"]
    assert [given.name for given in session.get_outputs()] == ["output['logits']", "output['features']"]
    found = session.run(None, {"image": inputs[0].numpy(), "shift": inputs[1].numpy()})
    for one, other in zip(found, compiled.canonical(*inputs), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other.detach(), rtol=0, atol=0.02)  # two steps
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_an_openvino_file_runs_elsewhere_under_the_users_names(compiled, inputs, tmp_path):
    path = compiled.export(tmp_path / "net.xml")
    model = core().read_model(path)
    assert [port.any_name for port in model.inputs] == ["image", "shift"]
    assert [port.any_name for port in model.outputs] == ["output['logits']", "output['features']"]
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    found = core().compile_model(model, "CPU", options)([one.numpy() for one in inputs])
    for index, other in enumerate(compiled.canonical(*inputs)):
        torch.testing.assert_close(torch.from_numpy(found[index]), other.detach(), rtol=0, atol=0.02)  # two steps
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.bin", "net.xml"]


def test_an_onnx_file_tells_what_it_is_and_is_the_same_each_time(compiled, tmp_path):
    path = compiled.export(tmp_path / "net.onnx")
    model = onnx.load(path)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["fxquant.model"] == "Net" and told["fxquant.weights"] == "int8" and told["fxquant.version"]
    assert model.producer_name == "fxquant" and model.opset_import[0].version >= 21
    before = path.read_bytes()
    assert compiled.export(path).read_bytes() == before


_LOADER = """
import sys, torch
import torch.ao.quantization.fx._decomposed
program = torch.export.load(sys.argv[1])
inputs, wanted = torch.load(sys.argv[2])
found = program.module()(*inputs)
assert not any(name.split(".")[0] == "fxquant" for name in sys.modules)
assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
print("equal")
"""


def test_a_pt2_file_gives_the_same_bits_without_fxquant(compiled, inputs, tmp_path):
    path = compiled.export(tmp_path / "net.pt2")
    wanted = [value.detach() for value in compiled.canonical(*inputs)]
    torch.save((inputs, wanted), tmp_path / "values.pt")
    command = [sys.executable, "-W", "ignore", "-c", _LOADER, str(path), str(tmp_path / "values.pt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout == "equal\n", done.stderr[-2000:]


def test_a_dynamic_model_goes_through_pt2(tmp_path):
    x = torch.randn(3, 8)
    made = fxquant.compile(nn.Linear(8, 4).eval(), "int8-dynamic", example_inputs=(x,), target="onednn")
    loaded = torch.export.load(made.export(tmp_path / "m.pt2")).module()
    torch.testing.assert_close(loaded(x)[0], made.canonical(x)[0], rtol=1e-5, atol=1e-5)


def test_a_saved_model_is_exported_too(compiled, tmp_path):
    loaded = fxquant.load(compiled.save(tmp_path / "m.fxq.safetensors"))
    path = loaded.export(tmp_path / "m.onnx")
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize(
    ("path", "format", "told"),
    [
        ("m.pb", None, "ends in '.pb', which is no format"),
        ("m", None, "has no suffix"),
        ("m.onnx", "tflite", "not exported to the format 'tflite'"),
        ("m.onnx", "pt2", "a file of format 'pt2' ends in '.pt2'"),
        ("no/such/m.onnx", None, "cannot be written"),
    ],
)
def test_a_path_that_cannot_be_is_refused(compiled, tmp_path, monkeypatch, path, format, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told) as caught:
        compiled.export(path, format=format)
    assert caught.value.code == "FXQ118" and not list(tmp_path.iterdir())


def test_a_model_that_calibrates_is_not_exported(tmp_path):
    waiting = fxquant.compile(nn.Linear(4, 4).eval(), "int8", target="onednn")
    with pytest.raises(ContractError, match="there is no canonical graph yet") as caught:
        waiting.export(tmp_path / "m.onnx")
    assert caught.value.code == "FXQ401" and not list(tmp_path.iterdir())


def test_a_format_whose_package_is_missing_is_FXQ516(compiled, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "fxquant.engines.onnx", raising=False)
    with pytest.raises(EngineUnavailableError) as caught:
        compiled.export(tmp_path / "m.onnx")
    assert caught.value.code == "FXQ516" and not list(tmp_path.iterdir())
    assert "format 'onnx' needs 'onnx', which cannot be imported" in str(caught.value)
    assert caught.value.hint == 'pip install "fxquant[onnxruntime]"'


def test_an_op_without_a_form_is_FXQ517_at_the_users_line(bessel, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("before")
    with pytest.raises(LoweringError) as caught:
        bessel.export(path)
    assert caught.value.code == "FXQ517" and path.read_text() == "before"
    assert "no form in format 'onnx': 'special_bessel_j0' at" in caught.value.message
    assert "return torch.special.bessel_j0(self.fc(x))" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_the_callers_world_is_as_before(compiled, tmp_path, capfd):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    before = [value.clone() for value in compiled.state_dict().values()]
    compiled.export(tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads
    assert all(torch.equal(one, other) for one, other in zip(before, compiled.state_dict().values(), strict=True))


def test_every_format_of_the_command_line_is_one_of_the_table():
    from fxquant.tools.export import SUFFIXES

    assert {one.name: one.suffix for one in exporting.FORMATS.values()} == {
        name: f".{suffix}" for name, suffix in SUFFIXES.items()
    }


def test_the_verb_writes_the_file_and_says_so(tmp_path, capsys):
    nets, out = write_source(tmp_path), tmp_path / "m.onnx"
    assert run(["export", f"{nets}:make", "--data", f"{nets}:batches", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert f"{out.stat().st_size:,} bytes → {out}" in captured.out and captured.err == ""
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_the_verb_says_that_a_pt2_runs_code(tmp_path, capsys):
    nets, out = write_source(tmp_path), tmp_path / "m.pt2"
    assert run(["export", f"{nets}:make", "--data", f"{nets}:batches", "-o", str(out)]) == 0
    assert "loading a .pt2 runs code" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["-o", "-"], ["-o", "m.txt"], ["-o", "no/such/m.onnx"], ["-o", "m.onnx", "--format", "pt2"]]
)
def test_the_verb_refuses_a_place_before_it_works(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert run(["export", "no_such_file.py:make", *arguments]) == UsageError.exit_status
    assert capsys.readouterr().err.startswith("FXQ118 ")


NO_PATHS = {
    "zero byte": ("a\0.onnx", None),
    "in a file": ("before.onnx/m.onnx", None),
    "folder": ("folder.onnx", None),
    "weights in the way": ("other.xml", None),
    "none": (None, None),
    "number": (3, None),
    "bytes": (b"m.onnx", None),
    "a list for a format": ("m.onnx", ["onnx"]),
    "a number for a format": ("m.onnx", 3),
}


@pytest.mark.parametrize("path, format", NO_PATHS.values(), ids=NO_PATHS)
def test_a_path_that_is_none_or_taken_is_refused_and_nothing_is_left(compiled, tmp_path, monkeypatch, path, format):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before.onnx").write_text("before")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "other.bin").mkdir()
    with pytest.raises(UsageError) as caught:
        compiled.export(path, format=format)
    assert caught.value.code == "FXQ118" and caught.value.hint
    assert {one.name for one in tmp_path.iterdir()} == {"before.onnx", "folder.onnx", "other.bin"}
    assert (tmp_path / "before.onnx").read_text() == "before"


WRITERS = {"m.onnx": "fxquant.engines.onnx.to_onnx", "m.xml": "openvino.save_model", "m.pt2": "torch.export.save"}
FAULTS = {
    "disk": (OSError(28, "No space left on device"), "FXQ118", "'{}' cannot be written: No space left on device"),
    "package": (KeyError("dim"), "FXQ517", "the graph has no form in format '{}': KeyError: 'dim'"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("error, code, told", FAULTS.values(), ids=FAULTS)
def test_a_package_that_fails_on_the_way_is_told_and_leaves_nothing(
    compiled, tmp_path, monkeypatch, name, error, code, told
):
    def fails(*args, **options):
        raise error

    monkeypatch.setattr(WRITERS[name], fails)
    with pytest.raises(FxQuantError) as caught:
        compiled.export(tmp_path / name)
    chosen = exporting.chosen_format(name).name
    assert caught.value.code == code and told.format(tmp_path / name if code == "FXQ118" else chosen) in str(
        caught.value
    )
    assert not list(tmp_path.iterdir())
