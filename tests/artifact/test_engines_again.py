"""I24 on engines outside torch: what is loaded gives the same bits, whichever tensors share memory with which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from support.asserts import assert_same
from support.compiling import compiled
from support.models import MODELS

OF_ZOO = [
    *(
        ("inplace_view", target, preset)
        for target in ("openvino", "onnxruntime")
        for preset in ("int8", "int8-dynamic")
    ),
    ("lstm", "openvino", "int8"),
    ("lstm", "onnxruntime", "int8-dynamic"),
]
SHARED = [
    ("triplet", "openvino", "int8"),
    ("triplet", "openvino", "int8-dynamic"),
    ("triplet", "onnxruntime", "int8"),
    ("pyramid", "openvino", "int8"),
]


class Triplet(nn.Module):
    """One net for three inputs: its layers are made apart, over the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16),
        )  # fmt: skip

    def forward(self, anchor: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        a, n, f = (F.normalize(self.net(x), dim=-1) for x in (anchor, near, far))
        return (a - n).square().sum(-1), (a - f).square().sum(-1)


class Pyramid(nn.Module):
    """One head on each level of a pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.further = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = torch.relu(self.down(x))
        coarse = torch.relu(self.further(fine))
        return [self.head(fine + F.interpolate(coarse, scale_factor=2.0)), self.head(coarse)]


def images(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


OF_USERS: dict[str, tuple[type[nn.Module], Callable[[int], tuple[Tensor, ...]]]] = {
    "triplet": (Triplet, lambda rows: tuple(images(rows, seed) for seed in range(3))),
    "pyramid": (Pyramid, lambda rows: (images(rows, 0),)),
}


def loaded_again(ours: fxquant.CompiledModel, target: str, folder: Path) -> fxquant.CompiledModel:
    assert ours.target == target, [row.reason for row in ours.ledger.notices]
    found = fxquant.load(ours.save(folder / "m.fxq.safetensors"))
    assert found.target == target and list(found.ledger) == list(ours.ledger)
    return found


@pytest.mark.parametrize(("name", "target", "preset"), OF_ZOO)
def test_a_model_of_the_zoo_gives_the_same_bits_from_its_file(name, target, preset, tmp_path):
    case = MODELS[name]
    ours = compiled(case, preset, target=target)
    found = loaded_again(ours, target, tmp_path)
    args = case.inputs(7, 3)
    assert_same(found(*args), ours(*args))


@pytest.mark.parametrize(("name", "target", "preset"), SHARED)
def test_layers_that_several_inputs_go_through_give_the_same_bits_from_a_file(name, target, preset, tmp_path):
    kind, inputs = OF_USERS[name]
    torch.manual_seed(0)
    ours = fxquant.compile(kind().eval(), preset, calibration_data=[inputs(8)], target=target)
    found = loaded_again(ours, target, tmp_path)
    for rows in (8, 3):
        assert_same(found(*inputs(rows)), ours(*inputs(rows)))
