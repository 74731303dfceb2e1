"""What a file does not hold: modules, functions and classes of the user's own are handed in, or asked for by name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.artifact.inspecting import inspect
from fxquant.artifact.layers import LAYERS, describe, fill, make, state_of
from fxquant.artifact.ops import APPLIED, ATTRIBUTES, METHODS, functions, name_of
from fxquant.errors import MissingLeafError, UnsavableError
from support.asserts import assert_same, fingerprint


class Rescale(nn.Module):
    """A leaf with a parameter, a buffer, and control flow that no tracer follows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(width))
        self.register_buffer("shift", torch.randn(width))

    def forward(self, x):
        return x * self.gain + self.shift if x.sum() > 0 else x * self.gain


@fx.wrap
def clipped(x, limit):
    """A function of the user's own."""
    return x.clamp(-limit, limit) if x.sum() > 0 else x


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.fc, self.rescale = nn.Linear(4, width), Rescale(width)

    def forward(self, x):
        return clipped(self.rescale(self.fc(x)), 0.5)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    ours = fxquant.compile(
        Net().eval(), "int8", calibration_data=torch.randn(32, 4), leaf_modules=[Rescale], target="x86"
    )
    return ours, ours.save(tmp_path / "m.fxq.safetensors")


def refusal(path, **options):
    with pytest.raises(MissingLeafError) as caught:
        fxquant.load(path, **options)
    assert caught.value.code == "FXQ609"
    return caught.value


def test_leaves_are_handed_in_and_get_the_numbers_of_the_file(saved):
    ours, path = saved
    mine = Rescale(4)
    before = fingerprint(mine)
    loaded = fxquant.load(path, leaves={"rescale": mine, "clipped": clipped})
    x = torch.randn(8, 4)
    assert_same(loaded(x), ours(x))
    assert fingerprint(mine) == before, "the caller's own module is left alone"


def test_the_file_says_what_it_asks_for(saved):
    assert inspect(saved[1]).leaves == {"rescale": "Rescale", "clipped": "function"}


def test_a_missing_module_is_named_with_its_class(saved):
    error = refusal(saved[1], leaves={"clipped": clipped})
    assert "'rescale', a module of class Rescale" in error.message and "leaves={'rescale'" in error.hint


def test_a_missing_function_is_named(saved):
    assert "'clipped', a function" in refusal(saved[1], leaves={"rescale": Rescale(4)}).message


def test_a_module_of_another_shape_is_refused_with_what_was_saved(saved):
    error = refusal(saved[1], leaves={"rescale": Rescale(5), "clipped": clipped})
    assert "gain [4]" in error.message


def test_a_module_in_the_place_of_a_function_is_refused(saved):
    assert "was a function" in refusal(saved[1], leaves={"rescale": Rescale(4), "clipped": nn.ReLU()}).message
    assert "is a int now" in refusal(saved[1], leaves={"rescale": 3, "clipped": clipped}).message


def test_a_leaf_that_nothing_calls_is_refused_with_the_nearest(saved):
    error = refusal(saved[1], leaves={"rescale": Rescale(4), "clipped": clipped, "reskale": nn.ReLU()})
    assert "'reskale'" in error.message and "'rescale'" in error.hint


@dataclass
class Answer:
    logits: torch.Tensor


class Answers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return Answer(self.fc(x))


def test_a_class_of_the_users_is_asked_for_by_name_and_checked_by_its_fields(tmp_path):
    ours = fxquant.compile(Answers().eval(), "int8-dynamic", example_inputs=torch.randn(2, 4))
    path = ours.save(tmp_path / "m.fxq.safetensors")
    assert "'Answer'" in refusal(path).message
    assert "types=[Answer]" in refusal(path, types=[Net]).hint
    other = dataclass(type("Answer", (), {"__annotations__": {"mean": torch.Tensor}}))
    assert "not the one that was saved" in refusal(path, types=[other]).message
    assert isinstance(fxquant.load(path, types=[Answer])(torch.randn(2, 4)), Answer)


# The registry ---------------------------------------------------------------------------------------------------------


def test_every_function_has_one_name_that_means_it():
    for name, function in functions().items():
        assert functions()[name_of(function)] is function, name


def test_the_registry_has_nothing_that_reads_files_runs_code_or_writes():
    banned = ("load", "save", "compile", "from_file", "apply_", "map_", "hook", "numpy", "data_ptr", "storage", "eval")
    names = [*functions(), *METHODS, *ATTRIBUTES, *APPLIED]
    assert not [
        name for name in names if any(part in name.rpartition(".")[2].split("_", 1)[0] == part for part in banned)
    ]
    assert not [name for name in METHODS if name.endswith("_") or name.startswith("_")]
    assert not [name for name in ATTRIBUTES if name.startswith("_") or name in ("data", "grad")]


EXAMPLES = {
    "conv2d": lambda: nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect", groups=2),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(2, 4, 2, stride=2, output_padding=1, groups=2, bias=False),
    "linear": lambda: nn.Linear(3, 4, bias=False),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
    "lstm": lambda: nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
    "gru": lambda: nn.GRU(3, 4, bias=False),
    "rnn": lambda: nn.RNN(3, 4, nonlinearity="relu"),
    "rnn_cell": lambda: nn.RNNCell(2, 3),
    "multihead_attention": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=3, add_bias_kv=True),
    "batch_norm2d": lambda: nn.BatchNorm2d(3, affine=False),
    "batch_norm1d": lambda: nn.BatchNorm1d(3, track_running_stats=False),
    "instance_norm2d": lambda: nn.InstanceNorm2d(3, affine=True),
    "layer_norm": lambda: nn.LayerNorm((2, 3), bias=False),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "rms_norm": lambda: nn.RMSNorm(4),
    "embedding": lambda: nn.Embedding(5, 3, padding_idx=1, max_norm=2.0),
    "embedding_bag": lambda: nn.EmbeddingBag(5, 3, mode="sum"),
    "prelu": lambda: nn.PReLU(3),
    "upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "avg_pool2d": lambda: nn.AvgPool2d(2, divisor_override=3),
    "unflatten": lambda: nn.Unflatten(1, (2, 3)),
    "threshold": lambda: nn.Threshold(1.0, 2.0),
    "logsigmoid": lambda: nn.LogSigmoid(),
    "relu6": lambda: nn.ReLU6(inplace=True),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_layer_is_made_again_from_its_name_options_and_tensors(name):
    layer = EXAMPLES[name]().eval()
    found, options = describe(layer)
    assert found == name
    made = make(name, options, "the layer")
    fill(made, state_of(layer), "the layer")
    assert repr(made) == repr(layer)
    assert_same(dict(made.state_dict()), dict(layer.state_dict()))


def test_the_names_of_layers_are_torchs_spelled_alike():
    assert {"adaptive_avg_pool2d", "relu6", "log_softmax", "gelu", "conv_transpose1d", "lstm_cell"} <= set(LAYERS)
    assert len({kind.kind for kind in LAYERS.values()}) == len(LAYERS)


def test_a_subclass_is_the_users_own():
    class Mine(nn.Linear):
        pass

    assert describe(Mine(2, 2)) is None


# What no file can hold -------------------------------------------------------------------------------------------------


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs()


class Hooked(nn.Module):
    def forward(self, x):
        return x.as_strided((2,), (1,)) * 2


class Complex(nn.Module):
    def forward(self, x):
        return torch.add(x, x, alpha=1) * (1 + 2j)


@pytest.mark.parametrize(
    ("net", "told"), [(Fourier, "rfft"), (Hooked, "'as_strided'"), (Complex, "(1+2j)")], ids=lambda value: str(value)
)
def test_what_has_no_form_is_refused_when_it_is_saved_not_when_it_is_loaded(net, told, tmp_path):
    ours = fxquant.compile(net().eval(), "int8-dynamic", example_inputs=torch.randn(2, 4))
    with pytest.raises(UnsavableError) as caught:
        ours.save(tmp_path / "m.fxq.safetensors")
    assert caught.value.code == "FXQ611" and told in caught.value.message
    assert not list(tmp_path.iterdir())
