"""Files and paths made to harm whoever loads them. Each has a seal that is right: anybody can compute one."""

from __future__ import annotations

import os
import time

import pytest

import fxquant
from fxquant.artifact import seal
from fxquant.errors import ArtifactError
from support.saved import saved

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
