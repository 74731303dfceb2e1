"""The guard of the fuzzing tests stops what it says it stops, and nothing else."""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from torch import fx, nn

from support.guard import FAMILIES, FORBIDDEN, GuardError, Limits, code_of_fx, guarded

SIZE = 64 * 2**20


def swallowing():
    """Code that hides what happens inside it."""
    try:
        exec("x = 1")
    except Exception:  # the test is that this does not help
        return "fine"


class Payload:
    def __reduce__(self):
        return os.getcwd, ()


class Hides:
    """Its own errors vanish, as those of a destructor do."""

    def __del__(self):
        exec("y = 1")


PICKLED = pickle.dumps(Payload())
FORBIDDEN_ACTS = {
    "exec": lambda folder: exec("x = 1"),
    "eval": lambda folder: eval("1 + 1"),
    "exec of a code object": lambda folder: exec(compiled_before),
    "compile": lambda folder: compile("1", "here", "eval"),
    "import": lambda folder: __import__("this"),
    "pickle": lambda folder: pickle.loads(PICKLED),
    "system": lambda folder: os.system("true"),
    "a process": lambda folder: subprocess.run([sys.executable, "-c", ""]),
    "exec of a program": lambda folder: os.execv("/nonexistent", ["x"]),
    "fork": lambda folder: os.fork(),
    "a new file": lambda folder: (folder / "new").write_text("x"),
    "a new file by number": lambda folder: os.open(folder / "new", os.O_CREAT | os.O_WRONLY),
    "appending": lambda folder: (folder / "new").open("ab"),
    "reading and writing": lambda folder: io.FileIO(__file__, "r+"),
    "a folder": lambda folder: os.mkdir(folder / "new"),
    "removing": lambda folder: os.remove(folder / "old"),
    "renaming": lambda folder: os.replace(folder / "old", folder / "new"),
    "a socket": lambda folder: socket.socket(),
    "a foreign library": lambda folder: ctypes.CDLL(None),
    "hidden": lambda folder: swallowing(),
    "hidden by a destructor": lambda folder: Hides() and None,
}  # fmt: skip
compiled_before = compile("z = 2", "before", "exec")


@pytest.mark.parametrize("act", FORBIDDEN_ACTS)
def test_a_forbidden_act_fails_and_does_not_happen(act, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda told: None)  # what a destructor raises is told there
    (tmp_path / "old").write_text("as it was")
    with pytest.raises(GuardError, match="forbidden while guarded"):
        guarded(lambda: FORBIDDEN_ACTS[act](tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["old"] and "this" not in sys.modules


def test_what_is_forbidden_is_said():
    with pytest.raises(GuardError, match=r"os\.system\(b'true'\)"):
        guarded(lambda: os.system("true"))
    assert {"exec", "compile", "import", "pickle.find_class", "os.system", "subprocess.Popen"} <= FORBIDDEN
    assert {"socket.", "ctypes."} <= set(FAMILIES)


def test_outside_of_the_block_all_is_as_before(tmp_path):
    guarded(lambda: None)
    exec("x = 1")
    (tmp_path / "new").write_text("x")
    assert signal.getsignal(signal.SIGPROF) in (signal.SIG_DFL, None)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_an_innocent_call_gives_its_result():
    def read():
        re.compile("a+")
        import json  # loaded long ago

        with open(__file__, "rb") as file:
            return json.dumps(len(file.read(10)))

    assert guarded(read) == "10"


def test_an_error_of_the_call_comes_through_as_it_is():
    error = ValueError("mine")

    def fail():
        raise error

    with pytest.raises(ValueError) as caught:
        guarded(fail)
    assert caught.value is error


def test_code_that_torch_fx_wrote_is_allowed_only_where_it_is_said():
    module = nn.Sequential(nn.ReLU())
    graph = fx.symbolic_trace(module).graph
    assert guarded(lambda: fx.GraphModule(module, graph), allow=code_of_fx)(torch.ones(1)) == 1
    with pytest.raises(GuardError, match="compile"):
        guarded(lambda: fx.GraphModule(module, graph))
    with pytest.raises(GuardError, match="exec"):
        guarded(lambda: exec(compiled_before), allow=code_of_fx)


def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_too_much_time_fails_and_a_hang_is_cut_off():
    limits = Limits(seconds=0.2)
    with pytest.raises(GuardError, match=r"s of processor time, 0\.2 s are allowed"):
        guarded(lambda: spin(0.3), limits=limits)
    started = time.process_time()
    with pytest.raises(GuardError, match="processor time"):
        guarded(lambda: spin(60), limits=limits)
    with pytest.raises(GuardError, match="processor time"):
        guarded(lambda: re.match("(a+)+$", "a" * 60 + "b"), limits=limits)
    assert time.process_time() - started < 10
    guarded(lambda: time.sleep(0.3), limits=limits)  # a machine that is busy with something else is no fault


def test_too_much_memory_fails_even_where_it_was_given_back():
    limits = Limits(grown_bytes=SIZE // 2)
    with pytest.raises(GuardError, match="memory grew by"):
        guarded(lambda: len(bytes(b"x" * SIZE)), limits=limits)
    assert guarded(lambda: len(io.BytesIO(b"x" * (SIZE // 16)).getvalue()), limits=limits) == SIZE // 16


def test_memory_of_before_does_not_hide_growth():
    assert len(b"y" * (4 * SIZE)) == 4 * SIZE  # the process has been larger than it is now
    with pytest.raises(GuardError, match="memory grew by"):
        guarded(lambda: len(b"x" * SIZE), limits=Limits(grown_bytes=SIZE // 2))
