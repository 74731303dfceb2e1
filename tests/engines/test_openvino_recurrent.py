"""LSTMs on OpenVINO: the first of several layers on codes where that is known to be right, and in float everywhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.engines import openvino
from fxquant.engines._openvino_recurrent import on_codes
from fxquant.engines.openvino import OpenVINOModule, build, runs_on_codes, to_model
from fxquant.numerics import sqnr_db

IDS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))


class Embedded(nn.Module):
    """ids → embedding → LSTM → the last step → linear. (OpenVINO looks for int8 only where something is quantized.)"""

    def __init__(
        self, layers: int = 2, *, both_ways: bool = False, scale: float = 1.0, kind: type[nn.RNNBase] = nn.LSTM
    ):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.embedding.weight.data *= scale
        self.rnn = kind(32, 32, num_layers=layers, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(64 if both_ways else 32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(ids))[0][:, -1])


class Given(Embedded):
    """Starts where the caller says."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        state = x.mean(1).unsqueeze(0).expand(2, -1, -1).contiguous()
        return self.head(self.rnn(x, (state, state))[0][:, -1])


class Computed(Embedded):
    """Nothing is known of what the layer reads."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(ids) * 3)[0][:, -1])


def engine_of(model: nn.Module, preset: str = "int8") -> tuple[OpenVINOModule, Tensor, Tensor]:
    """The engine, its output and the float model's."""
    torch.manual_seed(0)
    data = [IDS] if preset == "int8" else None
    made = fxquant.compile(model.eval(), preset, calibration_data=data, example_inputs=(IDS,), target="onednn")
    engine = build(made.canonical, (IDS,), threads=1)
    assert isinstance(engine, OpenVINOModule)
    return engine, engine(IDS)[0], model(IDS).detach()


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_first_of_several_layers_computes_on_codes_and_stays_near(both_ways: bool, scale: float) -> None:
    torch.manual_seed(1)
    engine, found, expected = engine_of(Embedded(both_ways=both_ways, scale=scale))
    kinds = engine._first.precisions_of("lstm_codes_sequence")
    assert len(kinds) == 1 + both_ways and set(kinds) == {"int8"}
    assert float(sqnr_db(expected, found)) > 25.0


@pytest.mark.parametrize(
    "model, preset",
    [
        (Embedded(layers=1), "int8"),  # its h is the result
        (Given(), "int8"),
        (Computed(), "int8"),
        (Embedded(kind=nn.GRU), "int8"),
        (Embedded(scale=0.0), "int8"),
        (Embedded(), "int8-weight-only"),  # nobody asked for codes
    ],
    ids=["one layer", "a state", "computed rows", "gru", "zeros", "weight-only"],
)
def test_all_others_compute_in_float(model: nn.Module, preset: str) -> None:
    engine, found, expected = engine_of(model, preset)
    assert engine._first.precisions_of("lstm_codes_sequence") == []
    assert float(sqnr_db(expected, found)) > 25.0


def test_where_no_int8_kernel_runs_it_the_graph_is_made_anew_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "runs_on_codes", lambda session: not session.precisions_of("lstm_codes_sequence"))
    engine, found, expected = engine_of(Embedded())
    assert engine._first.precisions_of("lstm_codes_sequence") == [] and runs_on_codes(engine._first)
    assert float(sqnr_db(expected, found)) > 30.0


def test_a_file_has_no_codes_that_other_kernels_would_misread() -> None:
    made = fxquant.compile(Embedded().eval(), "int8", calibration_data=[IDS], example_inputs=(IDS,), target="onednn")
    names = [op.get_friendly_name() for op in to_model(made.canonical, (IDS,)).get_ordered_ops()]
    assert any("lstm_sequence" in name for name in names) and not any("lstm_codes_sequence" in name for name in names)


def test_codes_of_both_matrices_are_on_one_scale_a_row() -> None:
    w, r, b = torch.randn(1, 8, 3), torch.randn(1, 8, 2) / 10, torch.zeros(1, 8)
    codes_w, codes_r, scale, bias = on_codes((w, r, b), bound=4.0)
    assert codes_w.dtype is codes_r.dtype is torch.int8 and bias is b
    step = scale.unsqueeze(-1)
    assert bool(((codes_w * step - 4 * w).abs() <= step / 2 * 1.001).all())
    assert bool(((codes_r * step - r).abs() <= step / 2 * 1.001).all())
