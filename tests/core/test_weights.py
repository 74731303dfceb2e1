"""load_weights: plain tensors by name, from a pickle that is not run or a safetensors file; anything else is FXQ612."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import fxquant
from fxquant.errors import ArtifactError
from support.asserts import assert_same, untouched


def net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))


@pytest.fixture
def trained() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return net()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_weights_of_a_file_are_in_a_copy(suffix, trained, tmp_path):
    path = tmp_path / f"weights{suffix}"
    write = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    write(trained.state_dict(), path)
    model = net()
    with untouched(model):
        loaded = fxquant.load_weights(model, path)
    assert_same(dict(loaded.state_dict()), dict(trained.state_dict()))
    assert type(loaded) is type(model) and loaded is not model


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/fxquant_weights_ran",)


def wrong(kind: str, trained: nn.Module, path: Path) -> None:
    state = dict(trained.state_dict())
    match kind:
        case "code":
            torch.save({"0.weight": Payload()}, path)
        case "a module":
            torch.save(trained, path)
        case "a tensor alone":
            torch.save(torch.ones(3), path)
        case "a checkpoint":
            torch.save({"epoch": 3, "state": state}, path)
        case "nothing in it":
            torch.save({}, path)
        case "no file":
            pass
        case "noise":
            path.write_bytes(bytes(range(256)))
        case "cut off":
            torch.save(state, path)
            path.write_bytes(path.read_bytes()[:500])
        case "another shape":
            torch.save(net(5).state_dict(), path)
        case "one too few":
            torch.save({name: value for name, value in state.items() if name != "0.bias"}, path)
        case "one too many":
            torch.save(state | {"zz": torch.ones(1)}, path)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("code", "not run"), ("a module", "not run"), ("a tensor alone", "a Tensor"), ("a checkpoint", "'epoch' is a int"),
        ("nothing in it", "holds nothing"), ("no file", "holds no weights"), ("noise", "not run"),
        ("cut off", "holds no weights"), ("another shape", "is [5, 4], the model has [4, 4]"),
        ("one too few", "'0.bias' is missing"), ("one too many", "'zz' is one too many"),
    ],
)  # fmt: skip
def test_anything_else_is_fxq612_and_is_not_run(kind, told, trained, tmp_path):
    path = tmp_path / "weights.pt"
    wrong(kind, trained, path)
    model = net()
    with untouched(model), pytest.raises(ArtifactError) as caught:
        fxquant.load_weights(model, path)
    assert caught.value.code == "FXQ612" and told in caught.value.message and str(path) in caught.value.message
    assert not Path("/tmp/fxquant_weights_ran").exists()


@pytest.mark.parametrize("data", [b"", b"{}", b"\x08" + b"\0" * 7 + b"{}      ", b"\xff" * 64])
def test_a_safetensors_file_that_is_none_is_fxq612(data, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        fxquant.load_weights(net(), path)
    assert caught.value.code == "FXQ612"


def test_nothing_in_the_library_unpickles_more_than_weights():
    import fxquant.passes
    import fxquant.tools

    for package in (fxquant, fxquant.passes, fxquant.tools):
        for file in Path(package.__path__[0]).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and ast.unparse(call.func) in (
                    "torch.load",
                    "pickle.load",
                    "pickle.loads",
                ):
                    assert ast.unparse(call).count("weights_only=True") == 1, f"{file}:{call.lineno}"
