"""Twelve architectures as users bring them: each compiles to something near the float model, or is told why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

import fxquant
from fxquant.errors import UnsavableError, UntraceableError
from fxquant.numerics import sqnr_db
from fxquant.structure import flatten
from support import pictures_of_users, sequences_of_users
from support.asserts import untouched
from support.models_of_users import MODELS_OF_USERS, model_of_user

PRESETS = ["int8", "int8-dynamic", "int8-weight-only"]
FLOOR = 15.0  # dB; below it something is wrong rather than coarse


def called(model: Any, batch: Any) -> Any:
    with torch.no_grad():
        return model(**batch) if isinstance(batch, dict) else model(*batch)


def some_rows(batch: Any) -> Any:
    """Another batch size than the one it was compiled with."""
    return tree_map(lambda value: value[1:4], batch)


def worst_db(expected: Any, found: Any) -> float:
    (left, structure), (right, other) = flatten(expected), flatten(found)
    assert structure == other and all(a.shape == b.shape for a, b in zip(left, right, strict=True))
    return min(sqnr_db(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("policy", PRESETS)
@pytest.mark.parametrize("name", MODELS_OF_USERS)
def test_it_is_near_the_float_model_for_other_batch_sizes_too(name, policy):
    model, batch = model_of_user(name), MODELS_OF_USERS[name][1]
    with untouched(model):
        made = fxquant.compile(model, policy, calibration_data=[batch], example_inputs=batch)
    for rows in (batch, some_rows(batch)):
        assert worst_db(called(model, rows), called(made, rows)) > FLOOR
    assert all(row.effective and row.reason for row in made.ledger.layers), "each layer has its row and its why"


@pytest.mark.parametrize("name", ["t5", "tabular", "siamese", "tcn"])
def test_its_file_gives_it_back(name, tmp_path):
    model, batch = model_of_user(name), MODELS_OF_USERS[name][1]
    made = fxquant.compile(model, "int8-dynamic", example_inputs=batch)
    loaded = fxquant.load(made.save(tmp_path / "model.fxq.safetensors"))
    for left, right in zip(flatten(called(made, batch))[0], flatten(called(loaded, batch))[0], strict=True):
        assert left.equal(right)


@pytest.mark.parametrize("name", ["vit", "tcn"])
def test_in_bfloat16_it_is_near_too(name):
    model = model_of_user(name).bfloat16()
    batch = tree_map(lambda value: value.bfloat16() if value.is_floating_point() else value, MODELS_OF_USERS[name][1])
    made = fxquant.compile(model, "int8", calibration_data=[batch], example_inputs=batch)
    found = called(made, batch)
    assert all(leaf.dtype is torch.float32 for leaf in flatten(found)[0])
    assert worst_db(called(model, batch), found) > FLOOR


def test_a_layer_over_packed_sequences_stays_float_and_says_why(tmp_path):
    batch = MODELS_OF_USERS["packed"][1]
    made = fxquant.compile(model_of_user("packed"), "int8-dynamic", example_inputs=batch)
    rows = {row.module: row for row in made.ledger.layers if row.module}
    assert rows["lstm"].code == "FXQ208" and "PackedSequence" in rows["lstm"].reason
    assert rows["table"].effective == rows["head"].effective == "int8"
    with pytest.raises(UnsavableError, match="FXQ611"):
        made.save(tmp_path / "packed.fxq.safetensors")


class PackedTwice(nn.Module):
    """By the functions' full names, and one recurrent layer after the other."""

    def __init__(self, *, is_branching: bool = False):
        super().__init__()
        self.first, self.second = nn.GRU(4, 6, batch_first=True), nn.GRU(6, 5, batch_first=True)
        self.is_branching = is_branching

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        steps = nn.utils.rnn.pad_packed_sequence(self.second(self.first(packed)[0])[0], batch_first=True)[0]
        return steps if not self.is_branching or steps.sum() > 0 else -steps


def test_packed_sequences_go_through_several_layers_and_torch_is_as_it_was():
    before = nn.utils.rnn.pack_padded_sequence
    x, lengths = torch.randn(6, 5, 4), torch.tensor([5, 3, 2, 5, 1, 4])
    model = PackedTwice().eval()
    with untouched(model):
        made = fxquant.compile(model, "int8-dynamic", example_inputs=(x, lengths))
    assert [row.effective for row in made.ledger.layers if row.op == "GRU"] == ["float32", "float32"]
    assert torch.equal(made(x, lengths), model(x, lengths))
    with pytest.raises(UntraceableError):
        fxquant.compile(PackedTwice(is_branching=True).eval(), "int8-dynamic", example_inputs=(x, lengths))
    assert nn.utils.rnn.pack_padded_sequence is before is sequences_of_users.pack_padded_sequence
    assert "isinstance" not in vars(sequences_of_users)


def test_int_of_a_size_is_told_with_its_line(monkeypatch):
    """`B = int(windows.shape[0] / (H * W / size / size))`, as many copies of Swin have it."""
    monkeypatch.setattr(pictures_of_users, "unwindows", pictures_of_users.unwindows_by_int)
    batch = MODELS_OF_USERS["swin"][1]
    with pytest.raises(UntraceableError) as caught:
        fxquant.compile(model_of_user("swin"), "int8-dynamic", example_inputs=batch)
    assert caught.value.code == "FXQ210" and "b = int(x.shape[0]" in str(caught.value)
    made = fxquant.compile(
        model_of_user("swin"), "int8-dynamic", example_inputs=batch, leaf_modules=[pictures_of_users.SwinBlock]
    )
    assert worst_db(called(model_of_user("swin"), batch), called(made, batch)) > FLOOR, "the first hint works"
