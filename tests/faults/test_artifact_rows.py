"""FAULTS rows 71–76: files that are cut off, damaged, foreign, too large or malicious; and paths that cannot be written."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

import fxquant
from fxquant.artifact import seal
from fxquant.artifact.inspecting import check
from fxquant.errors import (
    ArtifactError,
    ChecksumError,
    CorruptError,
    LimitError,
    SchemaError,
    TruncatedError,
    UnsafeError,
    UnwritableError,
)
from support.saved import edited, first, model, resealed, saved, with_header, with_text

DATA = saved("mlp")


def refusal(data: bytes, kind: type[ArtifactError] = ArtifactError) -> ArtifactError:
    with pytest.raises(kind) as caught:
        check(data)
    assert str(caught.value).startswith(caught.value.code)
    return caught.value


# 71, 72: a part of a file, and a file with other bytes -------------------------------------------------------------------


def test_row_71_a_file_cut_off_anywhere_is_fxq602():
    for length in range(len(DATA)):
        assert refusal(DATA[:length], TruncatedError).code == "FXQ602"


def test_row_72_any_bit_that_flips_is_fxq603():
    broken = bytearray(DATA)
    for place in range(len(DATA)):
        for bit in range(8) if place < 4096 else (place % 8,):
            broken[place] ^= 1 << bit
            assert refusal(bytes(broken), ChecksumError).code == "FXQ603"
            broken[place] ^= 1 << bit
    check(bytes(broken))


def test_row_72_bytes_after_the_end_are_fxq603():
    assert refusal(DATA + b"\0", ChecksumError).code == "FXQ603"


# 73: other kinds of files under the name ----------------------------------------------------------------------------------


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/fxquant_was_run",)


def foreign(kind: str, folder: Path) -> bytes:
    match kind:
        case "pickle":
            return pickle.dumps(Payload())
        case "zip":
            torch.save({"w": torch.ones(3)}, folder / "x.pt")
            return (folder / "x.pt").read_bytes()
        case "elf":
            return Path(sys.executable).resolve().read_bytes()[:4096]
        case "html":
            return b"<!doctype html><script>alert(1)</script>" * 20
        case "safetensors":
            import safetensors.torch

            return safetensors.torch.save({"w": torch.ones(3)}, metadata={"format": "pt"})
    return bytes(range(256)) * 2


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("pickle", "a pickle"),
        ("zip", "a zip archive"),
        ("elf", "a program"),
        ("html", "HTML"),
        ("safetensors", "something else wrote"),
        ("noise", "no saved model"),
    ],
)
def test_row_73_a_foreign_file_is_fxq601_and_is_not_run(kind, told, tmp_path):
    path = tmp_path / "m.fxq.safetensors"
    path.write_bytes(foreign(kind, tmp_path))
    with pytest.raises(CorruptError) as caught:
        fxquant.load(path)
    assert caught.value.code == "FXQ601" and told in caught.value.message
    assert not Path("/tmp/fxquant_was_run").exists()


@pytest.mark.parametrize("where", ["missing", "folder", "nul\0name", "x" * 5000])
def test_row_73_a_path_that_is_no_file_is_fxq601(where, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorruptError) as caught:
        fxquant.load(tmp_path / where)
    assert caught.value.code == "FXQ601"


# 74: headers made to exhaust or confuse a reader. Each file's seal is right: only what follows it is wrong ------------------

TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def big_json(size: int) -> bytes:
    """Written by hand: the library refuses to write so much."""
    text = DATA[8 : seal.END] + b' {\\"a\\":[' + b"0," * (size // 2) + b'0]}"}}'
    return resealed(struct.pack("<Q", len(text)) + text)


def with_length(length: int) -> bytes:
    return resealed(struct.pack("<Q", length) + DATA[8:])


def shifted(header, by: int):
    names = sorted((name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    header[names[-1]]["data_offsets"] = [offset + by for offset in header[names[-1]]["data_offsets"]]


def doubled(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].rstrip(b" ")
    key = b'"fc.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    text = text[:-1] + b"," + key + b"," + key + b"}"
    text += b" " * (-len(text) % 8)
    return resealed(struct.pack("<Q", len(text)) + text + data[8 + length :])


HEADERS = {
    "a header of 2^60 bytes": lambda: with_length(2**60),
    "a header longer than the file": lambda: with_length(len(DATA)),
    "100 MB of JSON": lambda: big_json(100_000_000),
    "15 MB of numbers": lambda: big_json(15_000_000),
    "lists 10,000 deep": lambda: with_text(DATA, "[" * 10_000 + "]" * 10_000),
    "a million lists": lambda: with_text(DATA, "[" + "[]," * 1_000_000 + "[]]"),
    "a key twice": lambda: with_text(DATA, '{"schema":1,"schema":1}'),
    "a tensor twice": lambda: doubled(DATA),
    "NaN": lambda: with_text(DATA, '{"schema":NaN}'),
    "a float": lambda: with_text(DATA, '{"schema":1.5}'),
    "a number of a million digits": lambda: with_text(DATA, '{"schema":' + "9" * 1_000_000 + "}"),
    "no JSON": lambda: with_text(DATA, "hello"),
    "another kind of value": lambda: with_text(DATA, "[]"),
    "a hole between tensors": lambda: with_header(DATA, lambda h: shifted(h, 8)),
    "tensors that overlap": lambda: with_header(DATA, lambda h: shifted(h, -8)),
    "an unknown dtype": lambda: with_header(DATA, lambda h: h.update({"zz": {**TENSOR, "dtype": "F3"}})),
    "a negative size": lambda: with_header(DATA, lambda h: h.update({"zz": {**TENSOR, "shape": [-1]}})),
    "a size that wraps around": lambda: with_header(DATA, lambda h: h.update({"zz": {**TENSOR, "shape": [2**40, 2**40]}})),
    "nine dimensions": lambda: with_header(DATA, lambda h: h.update({"zz": {**TENSOR, "shape": [1] * 9}})),
    "a tensor that is a list": lambda: with_header(DATA, lambda h: h.update({"zz": []})),
    "other metadata beside ours": lambda: with_header(DATA, lambda h: h["__metadata__"].update({"zz": "1"})),
    "a name with a newline": lambda: with_header(DATA, lambda h: h.update({"a\nb": {**TENSOR, "shape": [0], "data_offsets": [0, 0]}})),
    "a text that is too long": lambda: edited(DATA, lambda f: f.update({"model": "x" * 70_000})),
    "a million nodes": lambda: edited(DATA, lambda f: f.update({"nodes": [0] * 1_000_000})),
}  # fmt: skip


@pytest.mark.parametrize("what", HEADERS)
def test_row_74_a_hostile_header_is_refused_at_once(what):
    data = HEADERS[what]()
    started = time.process_time()
    error = refusal(data)
    assert time.process_time() - started < 1.0
    assert error.code in ("FXQ604", "FXQ605", "FXQ607")


# 75: graphs that would run code or crash a kernel ---------------------------------------------------------------------------


def rename(facts, to: str) -> None:
    facts["nodes"][1][1] = to


def reads(facts, what: str) -> None:
    first(facts, "fxq.quantize_per_tensor")[3][0] = what


def put(facts, target: str, place: int, value: object) -> None:
    first(facts, target)[3][place] = value


def cycle(facts) -> None:
    nodes = facts["nodes"]
    index = next(i for i, node in enumerate(nodes) if node[0] == "fn")
    nodes[index][3][0] = f"%{index}"


GRAPHS = {
    "a node that reads itself": cycle,
    "a node that reads a later one": lambda f: reads(f, f"%{len(f['nodes']) - 1}"),
    "a node that reads what is not there": lambda f: reads(f, "%99999"),
    "an op that is not in the registry": lambda f: first(f, "nn.linear").__setitem__(2, "os.system"),
    "an op by a dotted path": lambda f: first(f, "nn.linear").__setitem__(2, "torch.nn.functional.linear"),
    "a method that is not in the registry": lambda f: first(f, "nn.linear").__setitem__(slice(0, 3), ["method", "m", "numpy"]),
    "a name that is code": lambda f: rename(f, "x=print('run')"),
    "a name that is dunder": lambda f: rename(f, "__class__"),
    "a name that is a keyword": lambda f: rename(f, "lambda"),
    "a name that is a builtin": lambda f: rename(f, "print"),
    "an input whose name is code": lambda f: f["nodes"][0].__setitem__(1, "x=print('run')"),
    "a name twice": lambda f: rename(f, f["nodes"][0][1]),
    "a keyword that is code": lambda f: first(f, "nn.linear").__setitem__(4, ["d", "'bias=print(1)", None]),
    "a path that is code": lambda f: next(n for n in f["nodes"] if n[0] == "get").__setitem__(2, 'a"]; print(1)#'),
    "a path to an attribute of torch's": lambda f: next(n for n in f["nodes"] if n[0] == "get").__setitem__(2, "forward"),
    "a path through __class__": lambda f: next(n for n in f["nodes"] if n[0] == "get").__setitem__(2, "__class__.x"),
    "a tensor that is not there": lambda f: next(n for n in f["nodes"] if n[0] == "get").__setitem__(2, "no.such"),
    "two outputs": lambda f: f["nodes"].append(f["nodes"][-1]),
    "no output": lambda f: f["nodes"].pop(),
    "no nodes": lambda f: f.update({"nodes": []}),
    "a scale of 0": lambda f: put(f, "fxq.quantize_per_tensor", 1, "=0x0.0p+0"),
    "a scale of -1": lambda f: put(f, "fxq.quantize_per_tensor", 1, "=-0x1.0000000000000p+0"),
    "a scale of NaN": lambda f: put(f, "fxq.quantize_per_tensor", 1, "=nan"),
    "an infinite scale": lambda f: put(f, "fxq.dequantize_per_tensor", 1, "=inf"),
    "a scale that is a whole number": lambda f: put(f, "fxq.quantize_per_tensor", 1, 1),
    "a scale that is no canonical hex": lambda f: put(f, "fxq.quantize_per_tensor", 1, "=0x2p+0"),
    "a zero point of 999": lambda f: put(f, "fxq.quantize_per_tensor", 2, 999),
    "a range that is upside down": lambda f: put(f, "fxq.quantize_per_tensor", 3, 255),
    "codes of a float dtype": lambda f: put(f, "fxq.quantize_per_tensor", 5, ":float32"),
    "an axis of 9": lambda f: put(f, "fxq.dequantize_per_channel", 3, 9),
    "an axis of -1": lambda f: put(f, "fxq.dequantize_per_channel", 3, -1),
    "scales of another layer": lambda f: put(f, "fxq.dequantize_per_channel", 1, first(f, "fxq.dequantize_per_channel")[3][0]),
    "keywords for an op of ours": lambda f: first(f, "fxq.dequantize_per_tensor").__setitem__(4, ["d", "'scale", "=0x1.0000000000000p+0"]),
    "too few arguments": lambda f: first(f, "fxq.quantize_per_tensor").__setitem__(3, ["%0"]),
    "an argument of an unknown kind": lambda f: put(f, "fxq.quantize_per_tensor", 1, {"a": 1}),
    "an argument nested nine deep": lambda f: put(f, "fxq.quantize_per_tensor", 0, ["t", ["t", ["t", ["t", ["t", ["t", ["t", ["t", ["t", ["t"]]]]]]]]]]),
    "a signature with another number of inputs": lambda f: f["signature"].update({"inputs": []}),
    "a signature that names no output": lambda f: f["signature"].update({"outputs": [7]}),
    "a parameter that is code": lambda f: f["signature"]["parameters"][0].__setitem__(0, "x=print(1)"),
    "a stage that is none": lambda f: f.update({"stage": "TRACED"}),
    "an engine that is none": lambda f: f.update({"target": "cuda; rm -rf"}),
    "a schema of the future": lambda f: f.update({"schema": 2}),
    "a field too many": lambda f: f.update({"extra": 1}),
    "a field too few": lambda f: f.pop("plan"),
    "a mode that is none": lambda f: f["plan"][0].__setitem__(3, "int3"),
    "a probe that is not there": lambda f: f.update({"probe": ["zz"]}),
    "a finding about no node": lambda f: f.update({"findings": [["x86", "inf", [10_000]]]}),
    "a file with its folder": lambda f: f.update({"files": ["/etc/passwd"]}),
    "a line of a file that is not in the table": lambda f: f["nodes"][0][-1].__setitem__(2, [99, 1, "forward"]),
    "a tensor that is another that is not there": lambda f: f["odd"].update({"zz": ["no.such", "b", None]}),
}  # fmt: skip


@pytest.mark.parametrize("what", GRAPHS)
def test_row_75_a_graph_that_means_harm_or_nothing_is_refused_before_it_is_built(what, tmp_path, monkeypatch, capfd):
    from torch import fx

    path = tmp_path / "m.fxq.safetensors"
    path.write_bytes(edited(DATA, lambda facts: GRAPHS[what](facts) and None))
    built = []
    monkeypatch.setattr(fx, "GraphModule", lambda *args, **kwargs: built.append(args))
    with pytest.raises((SchemaError, UnsafeError, LimitError)) as caught:
        fxquant.load(path)
    assert caught.value.code in ("FXQ604", "FXQ605", "FXQ607")
    assert not built and capfd.readouterr().out == ""


LAYERS = {
    "a class that is none": lambda f: f["layers"].update({"zz": ["subprocess", ["d"]]}),
    "an option that it has not": lambda f: next(iter(f["layers"].values()))[1].extend(["'evil", 1]),
    "an option that is a list": lambda f: next(iter(f["layers"].values())).__setitem__(1, ["l"]),
    "a size that its tensors have not": lambda f: _option(f, "normalized_shape", ["t", 7]),
    "a size beyond all memory": lambda f: _option(f, "normalized_shape", ["t", 2**40, 2**40]),
    "a text for a number": lambda f: _option(f, "eps", "'x"),
}


def _option(facts, name: str, value: object) -> None:
    layer = next(layer for layer in facts["layers"].values() if layer[0] == "layer_norm")
    layer[1][layer[1].index(f"'{name}") + 1] = value


@pytest.mark.parametrize("what", LAYERS)
def test_row_75_a_layer_that_cannot_be_is_refused(what, tmp_path):
    path = tmp_path / "m.fxq.safetensors"
    path.write_bytes(edited(saved("encoder"), lambda f: LAYERS[what](f) and None))
    if what == "a text for a number":
        loaded = fxquant.load(path)  # torch takes it, and says so when it is called: typed all the same
        with pytest.raises(fxquant.FxQuantError):
            loaded(torch.zeros(1, 16, dtype=torch.int64))
        return
    with pytest.raises(ArtifactError) as caught:
        fxquant.load(path)
    assert caught.value.code in ("FXQ604", "FXQ605")


CONVS = {
    "no groups": ("conv2d", 6, 0),
    "groups that do not divide": ("conv2d", 6, 7),
    "a stride of 0": ("conv2d", 3, ["t", 0, 0]),
    "a negative padding": ("conv2d", 4, ["t", -1, -1]),
    "five strides": ("conv2d", 3, ["t", 1, 1, 1, 1, 1]),
    "a dilation of 0": ("conv2d", 5, ["t", 0, 0]),
    "a stride beyond all numbers": ("conv2d", 3, ["t", 2**62, 2**62]),
    "a weight for a bias": ("conv2d", 2, "weight"),
}


@pytest.mark.parametrize("what", CONVS)
def test_row_75_a_convolution_that_would_crash_a_kernel_is_refused(what):
    target, place, value = CONVS[what]

    def edit(facts):
        node = first(facts, target)
        codes = next(i for i, n in enumerate(facts["nodes"]) if n[0] == "get" and n[2].endswith("weight"))
        node[3][place] = f"%{codes}" if value == "weight" else value

    assert refusal(edited(saved("shared_conv_norm"), edit), UnsafeError).code == "FXQ605"


CELLS = {
    "weights of three": lambda node: node[3][2].pop(),
    "layers that it has not": lambda node: node[3].__setitem__(3, 3),
    "weights in another order": lambda node: node[3][2].__setitem__(slice(2, 4), node[3][2][3:1:-1]),
    "no weights": lambda node: node[3].__setitem__(2, ["t"]),
}


@pytest.mark.parametrize("what", CELLS)
def test_row_75_a_cell_that_would_crash_a_kernel_is_refused(what):
    edit = CELLS[what]
    assert refusal(edited(saved("lstm"), lambda f: edit(first(f, "fxq.lstm")) and None)).code == "FXQ605"


# 76: paths that cannot be written -----------------------------------------------------------------------------------------------


def unwritable(path: Path) -> UnwritableError | UnsafeError:
    with pytest.raises((UnwritableError, UnsafeError)) as caught:
        model("mlp").save(path)
    assert caught.value.code == "FXQ606" and path.name[-40:] in caught.value.message
    return caught.value


def test_row_76_a_folder_cannot_be_written(tmp_path):
    (tmp_path / "m").mkdir()
    unwritable(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_row_76_a_folder_that_is_not_there_cannot_be_written(tmp_path):
    unwritable(tmp_path / "no" / "m.fxq.safetensors")
    unwritable(tmp_path / ("x" * 400))
    assert not list(tmp_path.iterdir())


def test_row_76_a_link_is_not_followed_unless_asked(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("mine")
    link.symlink_to(target)
    assert "follow_links=True" in unwritable(link).hint
    assert target.read_text() == "mine"
    model("mlp").save(link, follow_links=True)
    assert link.is_symlink() and target.read_bytes() == DATA


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_row_76_i26_a_failure_at_any_step_leaves_the_old_file_and_no_other(step, number, tmp_path, monkeypatch):
    path = tmp_path / "m.fxq.safetensors"
    path.write_bytes(b"old")

    def fails(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    if step == "write":
        real = os.fdopen

        def opened(*args, **kwargs):
            return _Failing(real(*args, **kwargs), fails)

        monkeypatch.setattr(os, "fdopen", opened)
    else:
        monkeypatch.setattr(os, step, fails)
    unwritable(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and [item.name for item in tmp_path.iterdir()] == [path.name]


class _Failing:
    """A file whose writes fail half way."""

    def __init__(self, file, fails):
        self.file, self.fails = file, fails

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.fails()


KILLED = """
import os, sys
from fxquant.files import write_whole
import fxquant.files as files
real = os.fsync
def die(handle):
    os.kill(os.getpid(), 9)
os.fsync = die
write_whole(sys.argv[1], b"new" * 1000)
"""


def test_row_76_a_process_that_is_killed_leaves_the_old_file_and_a_recognisable_rest(tmp_path):
    path = tmp_path / "m.fxq.safetensors"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert all(item.name == path.name or item.name.startswith(".") for item in tmp_path.iterdir())


def test_row_76_saving_over_the_file_that_was_loaded_keeps_both_whole(tmp_path):
    """The old file is never mapped into memory, so replacing it cannot change what was loaded."""
    path = model("mlp").save(tmp_path / "m.fxq.safetensors")
    loaded = fxquant.load(path)
    loaded.save(path)
    assert path.read_bytes() == DATA
    loaded(torch.randn(2, 8))


def test_the_seal_stands_where_every_file_has_it():
    assert DATA[8 : 8 + len(seal.MAGIC)] == seal.MAGIC
    assert seal.digest_of(DATA) == DATA[8 + len(seal.MAGIC) + 16 :][:64].decode()
