"""What is wrong with the data, the model, the start or an option: each its own error, or a note that says so."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import FxQuantError
from fxquant.profiling import held as holding
from fxquant.profiling.held import held, sample
from fxquant.tools.digits_models import Mlp
from support.troubled import chain, normal


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x).relu()


class Branching(Small):
    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


GOOD = normal(8, 4)
NAN, INF = (GOOD[0].masked_fill(GOOD[0] > 1.0, value) for value in (float("nan"), float("inf")))


def refusal(*args, **options):
    with pytest.raises(FxQuantError) as caught:
        fxquant.profile(*args, **options)
    return caught.value


@pytest.mark.parametrize("start", ["int8", "int8-dynamic"])
@pytest.mark.parametrize(
    "data", [[], iter(()), [torch.empty(0, 4)], [torch.empty(0, 4), torch.empty(0, 4)], torch.empty(0, 4)]
)
def test_data_without_a_sample_is_an_error(start, data):
    error = refusal(Small().eval(), list(data) if isinstance(data, list) else data, qconfig_mapping=start)
    assert error.code == "FXQ301" and "give data with at least one sample, or none at all" in error.hint


def test_a_batch_of_size_zero_among_others_is_left_out_and_said():
    profile = fxquant.profile(Small().eval(), [GOOD[0], torch.empty(0, 4), GOOD[1]], verify=False)
    assert profile.batches == 2 and profile.rows == 16
    assert profile.notes == ("FXQ320 1 of 3 batches are of size zero and were left out",)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("start", ["int8", "int8-dynamic"])
def test_nan_and_infinity_in_the_data_are_an_error_that_names_the_batch(bad, start):
    error = refusal(Small().eval(), [*GOOD, bad], qconfig_mapping=start)
    assert error.code == "FXQ302" and "batch 4" in error.message and "'x'" in error.message


@pytest.mark.parametrize("wrong", [torch.ones(8, 5), torch.tensor(1.0), {"y": GOOD[0]}, (GOOD[0],) * 3])
@pytest.mark.parametrize("start", ["int8", "int8-dynamic"])
def test_data_of_another_shape_is_an_error_wherever_it_stands(wrong, start):
    is_traced_only = start == "int8-dynamic" and isinstance(wrong, torch.Tensor)  # compile runs its shapes, no values
    first = "FXQ113" if is_traced_only else "FXQ304"
    assert refusal(Small().eval(), [wrong], qconfig_mapping=start).code == first
    assert refusal(Small().eval(), [*GOOD, wrong], qconfig_mapping=start).code == "FXQ304"


def test_data_that_is_none_or_fails_is_an_error():
    def failing():
        yield GOOD[0]
        raise OSError("sample 17 is truncated")

    assert refusal(Small().eval(), 7).code == "FXQ111"
    assert refusal(Small().eval(), ["text"]).code == "FXQ304"
    assert refusal(Small().eval(), failing()).code == "FXQ312"


def test_endless_data_ends_and_says_so():
    endless = (GOOD[index % 4] for index in itertools.count())
    profile = fxquant.profile(Small().eval(), endless, verify=False, max_batches=3)
    assert profile.batches == 3 and profile.notes == ("FXQ309 profiled on the first 3 batches; there was more data",)


def test_endless_batches_of_size_zero_end_too():
    error = refusal(Small().eval(), (torch.empty(0, 4) for _ in itertools.count()), max_batches=5)
    assert error.code == "FXQ301" and "all 5 batches are of size zero" in error.message


def test_data_that_is_large_is_held_in_part(monkeypatch):
    monkeypatch.setattr(holding, "MOST_BYTES", 2 * GOOD[0].numel() * 4)
    kept = held(GOOD, Small(), None, max_batches=32)
    assert len(kept.calls) == 2 and kept.notes[0].startswith("FXQ309")


def test_a_loader_that_fills_one_buffer_again_is_copied():
    buffer = torch.zeros(8, 4)

    def loader():
        for batch in GOOD:
            yield buffer.copy_(batch)

    kept = held(loader(), Small(), None, max_batches=32)
    assert all(torch.equal(call[0][0], batch) for call, batch in zip(kept.calls, GOOD, strict=True))


@pytest.mark.parametrize(
    ("batches", "rows"),
    [
        ([torch.ones(8, 4), torch.ones(2, 4)], 6),
        ([torch.ones(8, 4), torch.ones(8, 5)], 8),  # of several shapes: the first alone
        ([(torch.ones(8, 4), torch.ones(3, 4))] * 2, 8),  # no common leading size
        ([torch.tensor(1.0), torch.tensor(2.0)], 0),
    ],
)
def test_a_sample_of_the_batches_joins_those_that_join(batches, rows):
    args, _ = sample(held(batches, Mlp(), None, max_batches=9), 8)
    assert (len(args[0]) if args[0].dim() else 0) == rows


class OnlyEight(Small):
    """Insists on its batch size, in a way that a traced graph keeps."""

    def forward(self, x):
        return self.fc(x.view(8, 4)).relu()


def test_a_model_that_insists_on_its_batch_size_is_measured_on_one_batch():
    profile = fxquant.profile(OnlyEight().eval(), GOOD, seconds=1)
    assert profile.batches == 4 and profile["fc"].values.count == 4 * 8 * 3


def test_a_model_that_does_not_trace_is_its_own_error():
    error = refusal(Branching().eval(), GOOD)
    assert error.code == "FXQ210" and "test_bad_input.py" in str(error)
    assert refusal(Branching().eval()).code == "FXQ210"


@pytest.mark.parametrize(
    ("model", "code"),
    [(Small, "FXQ201"), ({"fc.weight": torch.ones(1)}, "FXQ201"), (None, "FXQ201")],
)
def test_what_is_no_float_model_is_refused_as_compile_refuses_it(model, code):
    with pytest.raises(FxQuantError) as caught:
        fxquant.compile(model, "int8", calibration_data=GOOD)
    assert refusal(model, GOOD).code == caught.value.code
    assert caught.value.code == code


def test_a_compiled_model_is_refused():
    compiled = fxquant.compile(Small().eval(), "int8", calibration_data=GOOD)
    assert refusal(compiled, GOOD).code == "FXQ230"


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ("no-such.toml", "FXQ101"),
        (Path("no-such.toml"), "FXQ101"),
        ("int88", "FXQ102"),
        (7, "FXQ102"),
        (None, "FXQ102"),
    ],
)
@pytest.mark.parametrize("data", [GOOD, None])
def test_a_start_that_is_none_is_an_error(start, code, data):
    assert refusal(Small().eval(), data, qconfig_mapping=start).code == code


def test_a_start_that_matches_nothing_is_an_error(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('schema = 1\n[[rule]]\ntargets = ["fcc"]\nscheme = "int8"\n')
    assert refusal(Small().eval(), GOOD, qconfig_mapping=path).code == "FXQ110"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("objective", value) for value in ("speed", None, 3)),
        *(("seconds", value) for value in (-1, float("nan"), float("inf"), "5", True)),
        *(("most_float", value) for value in (-0.1, 1.1, None)),
        *(("max_batches", value) for value in (0, 1.5, True)),
        ("verify", 1),
    ],
)
def test_an_option_that_means_nothing_is_named(option, value):
    error = refusal(Small().eval(), GOOD, **{option: value})
    assert error.code == "FXQ111" and error.message.startswith(f"{option}=") and error.hint


def test_an_unknown_target_is_an_error():
    assert refusal(Small().eval(), GOOD, target="tpu").code == "FXQ109"


def test_strict_holds_the_start_and_not_what_is_tried():
    grouped = nn.Sequential(nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2)).eval()
    assert refusal(grouped, torch.ones(8, 2, 3, 3).cumsum(3), strict=True, target="x86").code == "FXQ501"
    assert fxquant.profile(chain(), normal(8, 1, 8, 8), strict=True, verify=False).batches == 4


@pytest.mark.parametrize("path", ["p.gif", "p", "no/such/folder/p.png"])
def test_a_chart_that_cannot_be_written_is_an_error(path):
    with pytest.raises(FxQuantError) as caught:
        fxquant.profile(Small().eval()).plot(path)
    assert caught.value.code == "FXQ118"


def test_a_chart_without_matplotlib_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FxQuantError) as caught:
        fxquant.profile(Small().eval()).plot("p.png")
    assert caught.value.code == "FXQ112" and "fxquant[demo]" in caught.value.hint


class Scaled(nn.Module):
    def forward(self, x):
        return (x * 0.5).relu()


def test_constant_data_has_no_kurtosis_and_is_no_error():
    profile = fxquant.profile(Scaled().eval(), [torch.zeros(8, 4)] * 2, seconds=1)
    assert profile["mul"].values.kurtosis != profile["mul"].values.kurtosis, "NaN"
    assert profile["mul"].values.zeros == 1.0 and profile["mul"].values.dead_channels == 4
    assert "nan" not in str(profile).replace("infinite", "")
