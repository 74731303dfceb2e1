"""Every code of QAT and distillation: the exact text that a user reads, one golden file each.

`FXQUANT_REGENERATE=1 python -m pytest tests/training/test_error_texts.py` writes them anew; read each line then.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxquant
from fxquant import torch_ao
from fxquant.errors import FxQuantError, FxQuantWarning
from fxquant.passes.convert import Convert
from support.training import net, pictures, qat, train

with torch_ao.quiet():
    from torch.ao.quantization import QConfigMapping

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _trained_teacher(patch):
    teacher = net()
    loss = fxquant.Distillation(teacher)
    loss(net(1), pictures())
    with torch.no_grad():
        teacher[5].weight.mul_(2)
    loss(net(1), pictures())


def _wrong_conversion(patch):
    plain = Convert.run

    def run(self, program, ledger):
        made = plain(self, program, ledger)
        made.graph_module.get_submodule("5").bias.add_(1.0)
        return made

    patch.setattr(Convert, "run", run)
    qat(policy="int8-weight-only").check()


def _fused_feature(patch):
    teacher = net()
    fxquant.Distillation(teacher, features={"0": 1.0})(qat(teacher), pictures())


SCENARIOS = {
    "FXQ127": lambda patch: fxquant.Distillation(net(), temperature=0),
    "FXQ127-loop": lambda patch: fxquant.distil(net(1), net(), iter([pictures()])),
    "FXQ127-pass": lambda patch: fxquant.compress(net(), ["distil"]),
    "FXQ128": _fused_feature,
    "FXQ129": lambda patch: fxquant.QATSchedule(freeze_observers_after=-1),
    "FXQ129-passes": lambda patch: qat(passes=["select-qconfigs"]),
    "FXQ231": lambda patch: qat(policy=QConfigMapping()),
    "FXQ301-qat": lambda patch: qat(calibration_data=None).convert(),
    "FXQ302-qat": lambda patch: qat().train()(pictures() / 0),
    "FXQ315": _trained_teacher,
    "FXQ316": lambda patch: fxquant.distil(net(1), net(), [pictures() / 0]),
    "FXQ408": _wrong_conversion,
    "FXQ409": lambda patch: qat().save("net.fxq.safetensors"),
    "FXQ409-pickle": lambda patch: qat().__reduce_ex__(4),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_text_is_the_golden_one(name, monkeypatch):
    with pytest.raises(FxQuantError) as caught:
        SCENARIOS[name](monkeypatch)
    assert caught.value.code == name.split("-")[0]
    text = re.sub(r"[\d.]+ steps", "N steps", str(caught.value)) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FXQUANT_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_fxq314_nothing_was_trained():
    model = qat()
    with pytest.warns(FxQuantWarning) as caught:
        model.convert()
    assert str(caught[0].message) == (
        "FXQ314 nothing was trained: backward() never reached it: no weight has changed since compile(); "
        "in the loop: model.train(); loss.backward(); optimizer.step(), with this model's parameters"
    )


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.EmbeddingBag(50, 8, mode="sum"), nn.Linear(8, 4)

    def forward(self, tokens):
        return self.head(self.table(tokens))


def test_fxq232_trained_in_float():
    tokens = torch.randint(0, 50, (16, 5), generator=torch.Generator().manual_seed(0))
    model = fxquant.compile(Bags().eval(), "int8", mode="qat", calibration_data=[tokens])
    told = [row.reason for row in model.ledger.notices if row.code == "FXQ232"]
    assert told == ["'table': EmbeddingBag is trained in float, its weights are rounded at convert() only"]


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        if self.training:
            x = x + torch.randn_like(x)
        return self.head(x)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(F.dropout(self.a(x), 0.5, self.training))


class Shy(Noisy):
    """Cannot be captured in training mode."""

    def forward(self, x):
        if self.training and x.sum() > 0:
            return self.head(-x)
        return self.head(x)


def notices(model, x):
    made = fxquant.compile(model.eval(), "int8", mode="qat", calibration_data=[x])
    return made, [row.reason for row in made.ledger.notices if row.code == "FXQ233"]


def test_fxq233_what_forward_does_in_training_only():
    _, told = notices(Noisy(), torch.rand(8, 8))
    assert len(told) == 1 and told[0].startswith("'head' at ")
    assert told[0].endswith("forward() does something else in training mode: what trains is what eval mode computes")
    _, told = notices(Shy(), torch.rand(8, 8))
    assert told == ["in training mode forward() cannot be captured (FXQ210): what trains is what eval mode computes"]


def test_fxq233_dropout_that_is_written_out():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    _, told = notices(nn.Sequential(layer), torch.rand(8, 3, 8))
    assert told == ["the dropout inside '0' (TransformerEncoderLayer) is off in training: its parts are written out"]
    _, told = notices(nn.Sequential(nn.Flatten(), nn.Linear(24, 8)), torch.rand(8, 3, 8))
    assert told == []


def test_functional_dropout_that_follows_the_mode_is_live():
    model, told = notices(Dropping(), torch.rand(8, 8))
    x = torch.rand(8, 8)
    assert told == [] and torch.equal(model(x), model(x))
    assert not torch.equal(model.train()(x), model(x))
    model(x).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model.convert().ledger["dropout"].effective == "removed"


def test_functional_dropout_of_a_model_that_was_captured_before_is_off_and_told():
    compressed = fxquant.compress(Dropping().eval(), [])
    _, told = notices(compressed, torch.rand(8, 8))
    assert len(told) == 1 and told[0].endswith("dropout is off in training: the model was captured in eval mode")


def test_dropout_before_a_flatten_keeps_the_codes_of_its_input():
    model = qat(passes=fxquant.default_pipeline().without("canonicalize-qdq"))
    train(model, 5)
    compiled = model.convert()
    first, second = (
        node.args[1:3]
        for node in compiled.canonical.graph.nodes
        if node.name in ("quantize_per_tensor_1", "quantize_per_tensor_2")
    )
    assert first == second
