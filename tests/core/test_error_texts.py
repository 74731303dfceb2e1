"""Every code of calibration, passes and engines: the exact text that a user reads, one golden file each.

`FXQUANT_REGENERATE=1 python -m pytest tests/core/test_error_texts.py` writes them anew; read each line then.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxquant
from fxquant import targets, torch_ao
from fxquant.errors import BackendError, FxQuantError
from fxquant.graphs.patching import Patch
from fxquant.passes import _packing
from fxquant.pipeline import Pass
from support.engines import Interpreted, choosy, failing, faithful, install

with torch_ao.quiet():
    from torch.ao.quantization import MinMaxObserver, QConfig, QConfigMapping, default_weight_observer

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MINMAX = QConfigMapping().set_global(QConfig(MinMaxObserver, default_weight_observer))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x).relu()


class Tail(Net):
    def forward(self, x):
        return self.head(x), self.head(x[8:])


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2)

    def forward(self, x):
        return self.norm(self.conv(x))


@dataclass(frozen=True)
class Broken(Pass):
    name: ClassVar[str] = "broken"

    def run(self, program, ledger):
        raise IndexError("list index out of range")


@dataclass(frozen=True)
class Malformed(Pass):
    name: ClassVar[str] = "malformed"

    def run(self, program, ledger):
        next(node for node in program.graph.nodes if node.op == "call_module").target = "gone"
        return program


GOOD = torch.linspace(-1, 1, 32).reshape(8, 4)


def compiled(data=GOOD, model=None, policy="int8", **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (model or Net)().eval()
    return fxquant.compile(model, policy, calibration_data=data, target="x86", **options)


def _nan(patch):
    compiled([GOOD, GOOD.masked_fill(GOOD > 0.9, float("nan"))])


def _raising():
    yield GOOD
    raise OSError("sample 17 is truncated")


def _meddling(patch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().eval()

    def meddle(record):
        with torch.no_grad():
            model.head.weight.zero_()

    fxquant.compile(model, "int8", calibration_data=GOOD, target="x86", observers=[meddle])


def _refused(patch):
    def pack(*args):
        raise RuntimeError("weights of this shape are not supported")

    patch.setitem(_packing.PACKED, F.linear, (pack, *_packing.PACKED[F.linear][1:]))
    compiled(strict=True)


def _wrong(patch):
    def zeros(x, packed, scale, zero_point):
        shape = (*x.shape[:-1], 3)
        return torch._make_per_tensor_quantized_tensor(torch.full(shape, 128, dtype=torch.uint8), scale, zero_point)

    patch.setitem(_packing.PACKED, F.linear, (_packing.PACKED[F.linear][0], zeros, zeros))
    compiled(strict=True)


def _without_qnnpack(patch):
    patch.setattr(targets, "available", lambda name: name in ("x86", "fbgemm"))
    fxquant.compile(Net().eval(), "int8", target="qnnpack")


def _on_openvino(build):
    def scenario(patch):
        install(patch, build)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Net().eval()
        return fxquant.compile(model, "int8", calibration_data=GOOD, target="openvino", strict=True)

    return scenario


def _falling(name):
    """The notice as an error, so that its text is held like theirs."""

    def scenario(patch):
        if name == "FXQ511":
            install(patch, faithful(), why="it needs openvino 2025.0 or newer, and 2024.6.0 is installed")
        else:
            install(patch, failing(RuntimeError("no kernel")))
        model = fxquant.compile(Net().eval(), "int8", calibration_data=GOOD, target="openvino")
        row = next(row for row in model.ledger.notices if row.code == name)
        raise BackendError(
            row.code, row.reason.replace(model.engine, "ENGINE"), hint=row.hint.replace(model.engine, "ENGINE")
        )

    return scenario


class _Fixed(Interpreted):
    """Takes the batch that it was made for."""

    def forward(self, *leaves):
        if len(leaves[0]) != 8:
            raise RuntimeError("shape [3, 4] is not the compiled one")
        return super().forward(*leaves)


def _without_onnxruntime(patch):
    install(patch, faithful(), why="onnxruntime is not installed", name="onnxruntime")
    fxquant.compile(Net().eval(), "int8", target="onnxruntime", strict=True)


SCENARIOS = {
    "FXQ115": lambda patch: fxquant.snapshot({"a": 1}),
    "FXQ115-stage": lambda patch: fxquant.snapshot(Net().eval(), stage="converted"),
    "FXQ142": lambda patch: fxquant.profile(Net().eval(), qconfig_mapping=MINMAX, target="x86").recipe(),
    "FXQ123": lambda patch: fxquant.qconfig("flaot16"),
    "FXQ123-group": lambda patch: fxquant.qconfig("int4", group_size=0),
    "FXQ123-beside": lambda patch: fxquant.qconfig("bfloat16", weight_bits=4),
    "FXQ301": lambda patch: compiled([]),
    "FXQ301-convert": lambda patch: compiled(None).convert(),
    "FXQ302": _nan,
    "FXQ302-guard": lambda patch: compiled(guard_inputs=True)(GOOD / 0.0),
    "FXQ303": lambda patch: compiled(model=Tail),
    "FXQ304-width": lambda patch: compiled([GOOD, torch.ones(8, 5)]),
    "FXQ304-form": lambda patch: compiled(["text"]),
    "FXQ304-name": lambda patch: compiled([{"y": GOOD}]),
    "FXQ305": lambda patch: compiled(GOOD * 3e38, policy=MINMAX),
    "FXQ312": lambda patch: compiled(_raising()),
    "FXQ313": lambda patch: fxquant.measure(compiled()),
    "FXQ401": lambda patch: compiled(passes=["select-qconfigs", "convert"]),
    "FXQ401-train": lambda patch: compiled().train(),
    "FXQ402": lambda patch: fxquant.default_pipeline().without("fold"),
    "FXQ402-stage": lambda patch: compiled().diff("lowred"),
    "FXQ403": lambda patch: compiled(passes=fxquant.default_pipeline().before("functionalize", Broken())),
    "FXQ404": lambda patch: compiled(passes=fxquant.default_pipeline().before("functionalize", Malformed())),
    "FXQ405": _meddling,
    "FXQ501": lambda patch: compiled(torch.ones(8, 2, 3, 3).cumsum(3), Grouped, strict=True),
    "FXQ502": _without_qnnpack,
    "FXQ503": lambda patch: compiled()(torch.ones(2, 4, dtype=torch.uint8)),
    "FXQ503-move": lambda patch: compiled().half(),
    "FXQ504": _refused,
    "FXQ505": _wrong,
    "FXQ502-extra": _without_onnxruntime,
    "FXQ504-torch": _on_openvino(choosy(F.linear)),
    "FXQ511": _falling("FXQ511"),
    "FXQ512": _on_openvino(failing(RuntimeError("no kernel for this"))),
    "FXQ512-notice": _falling("FXQ512"),
    "FXQ514": _on_openvino(faithful(spoil=lambda value: value * 2)),
    "FXQ515": lambda patch: _on_openvino(lambda graph, leaves, threads: _Fixed("openvino", graph))(patch)(GOOD[:3]),
    "FXQ401-target": lambda patch: compiled(passes=fxquant.default_pipeline(target="openvino")),
    "FXQ610": lambda patch: compiled().__reduce_ex__(4),
    "FXQ621": lambda patch: Patch.from_json("[]"),
    "FXQ621-graph": lambda patch: fxquant.diff(Net().eval(), Net().eval()).patch.apply(fxquant.GraphSnapshot(())),
    "FXQ620": lambda patch: fxquant.GraphSnapshot.from_json('{"nodes":[]}'),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_text_is_the_golden_one(name, monkeypatch):
    with pytest.raises(FxQuantError) as caught:
        SCENARIOS[name](monkeypatch)
    assert caught.value.code == name.split("-")[0]
    text = re.sub(r"at \S*test_error_texts\.py:\d+", "at test_error_texts.py:LINE", str(caught.value)) + "\n"
    text = re.sub(r"-?\d+\.\d( dB|$|(?=\n))", r"N\1", text)  # which quantization costs depends on the CPU's range
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FXQUANT_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
