"""Files and paths made to harm whoever loads them. Each has a seal that is right: anybody can compute one."""

from __future__ import annotations

import os
import time

import pytest
import torch

import fxquant
from fxquant.artifact import seal
from fxquant.artifact.building import Placed
from fxquant.artifact.inspecting import check
from fxquant.errors import ArtifactError
from support.saved import edited, saved

DATA = saved("mlp")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="a pipe") as caught:
        fxquant.load(tmp_path / "pipe")
    assert caught.value.code == "FXQ601"


def test_a_device_is_refused():
    with pytest.raises(ArtifactError, match="a device") as caught:
        fxquant.load("/dev/zero")
    assert caught.value.code == "FXQ601"


@pytest.mark.parametrize("head", [b"", DATA[: seal.END]], ids=["no model", "a model that ends sooner"])
def test_a_large_file_is_refused_by_its_first_bytes(head, tmp_path):
    """60 GB, all of it a hole: read whole it would take all memory."""
    path = tmp_path / "m.fxq.safetensors"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(60 * 2**30)
    started = time.process_time()
    with pytest.raises(ArtifactError) as caught:
        fxquant.load(path)
    assert caught.value.code == ("FXQ603" if head else "FXQ601")
    assert time.process_time() - started < 1


# Nothing of the graph runs at load ---------------------------------------------------------------------------------------


def appended(kind: str, target: str, *arguments: object):
    """The file with one more node, which its output returns."""

    def edit(facts) -> None:
        facts["nodes"].insert(-1, [kind, "zz", target, list(arguments), ["d"], []])
        facts["nodes"][-1][2] = ["t", f"%{len(facts['nodes']) - 2}"]

    return edit


def load(data: bytes, folder, **options) -> fxquant.CompiledModel:
    path = folder / "m.fxq.safetensors"
    path.write_bytes(data)
    return fxquant.load(path, **options)


@pytest.mark.parametrize("has_probe", [False, True])
def test_no_op_of_the_graph_runs_before_the_model_is_called(has_probe, tmp_path):
    """10 ** 10 ** 9 takes hours. It was computed to tell what the node gives, and on the probe."""
    data = edited(saved("mlp", probe=has_probe), appended("fn", "py.pow", 10, 10**9))
    loaded = load(data, tmp_path)
    assert [node.name for node in loaded.canonical.graph.nodes][-2] == "zz"


def test_a_write_to_what_is_no_buffer_is_refused(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        load(edited(DATA, appended("fn", "fxq.store", "%0", "%0")), tmp_path)
    assert caught.value.code == "FXQ605"


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("nn.local_response_norm", (-1,)),
        ("py.getitem", (["s", None, None, 0],)),
        ("py.mul", ()),
    ],
)
def test_what_fails_when_it_is_called_is_typed(target, arguments, tmp_path):
    given = ("'aaaaaaaa", 2**50) if target == "py.mul" else ("%0", *arguments)
    loaded = load(edited(DATA, appended("fn", target, *given)), tmp_path)
    with pytest.raises(fxquant.FxQuantError) as caught:
        loaded(torch.randn(2, 8))
    assert caught.value.code == "FXQ503"


# Work that grows beyond the file --------------------------------------------------------------------------------------------


def test_a_layer_has_no_more_parts_than_the_file_has_tensors_for(tmp_path):
    options = {"input_size": 4, "hidden_size": 4, "num_layers": 10**7, "bias": True, "batch_first": False,
               "dropout": "=0x0.0p+0", "bidirectional": False, "proj_size": 0}  # fmt: skip
    written = ["d", *(part for name, value in options.items() for part in (f"'{name}", value))]

    def edit(facts) -> None:
        facts["layers"]["zz"] = ["lstm", written]
        appended("layer", "zz", "%0")(facts)

    started = time.process_time()
    with pytest.raises(ArtifactError) as caught:
        load(edited(DATA, edit), tmp_path)
    assert caught.value.code == "FXQ605"
    assert time.process_time() - started < 2


def test_layers_that_nothing_calls_are_refused():
    with pytest.raises(ArtifactError) as caught:
        check(edited(DATA, lambda facts: facts["layers"].update({"zz": ["re_lu", ["d", "'inplace", False]]})))
    assert caught.value.code in ("FXQ604", "FXQ605")


def test_the_tensors_of_a_layer_are_found_without_a_look_at_all_others():
    tensors = {f"a{index}.weight": torch.empty(0) for index in range(50_000)}
    placed = Placed(tensors)
    started = time.process_time()
    for index in range(50_000):
        assert list(placed.below(f"a{index}")) == ["weight"]
    assert time.process_time() - started < 2
    assert not placed.below("a")
