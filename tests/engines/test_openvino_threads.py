"""A small graph runs on one thread where that is faster, and the ledger says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from fxquant.engines import _openvino_session, _openvino_threads, openvino
from fxquant.engines._openvino_threads import on_fewest_threads


class Timed:
    """A session whose calls take so many microseconds on the test's clock."""

    now = 0.0

    def __init__(self, microseconds: float) -> None:
        self.seconds = microseconds / 1e6

    def __call__(self, leaves: Any) -> None:
        Timed.now += self.seconds


@pytest.mark.parametrize(
    "together, alone, threads, is_alone",
    [(300, 200, 2, True), (300, 295, 2, False), (300, 400, 2, False), (1500, 200, 2, False), (300, 200, 1, False)],
)
def test_one_thread_is_taken_where_it_is_faster_and_the_graph_small(
    together: float, alone: float, threads: int, is_alone: bool
) -> None:
    all_of_them, one = Timed(together), Timed(alone)
    taken, why = on_fewest_threads(all_of_them, lambda count: one, (), threads, clock=lambda: Timed.now)  # type: ignore[arg-type, return-value]
    assert taken is (one if is_alone else all_of_them)
    assert why == ("openvino runs on 1 of 2 threads: 200 µs a call against 300" if is_alone else "")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("gain", [0.0, float("inf")])  # one thread never wins, or always
def test_the_ledger_says_so(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    monkeypatch.setattr(_openvino_threads, "GAIN", gain)
    monkeypatch.setattr(_openvino_threads, "SMALL", float("inf"))
    x = torch.randn(4, 8)
    model = fxquant.compile(nn.Linear(8, 4).eval(), "int8", calibration_data=x, example_inputs=(x,), target="openvino")
    told = [row.reason for row in model.ledger.notices if row.code == "FXQ519"]
    assert len(told) == (gain > 0) and all(text.startswith("openvino runs on 1 of 2 threads: ") for text in told)
    torch.testing.assert_close(model(x), model.canonical(x)[0], rtol=0, atol=0.1)


@pytest.mark.usefixtures("two_threads")
def test_an_example_that_is_a_parameter_is_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 8)
    layer = nn.Linear(8, 4).eval()
    canonical = fxquant.compile(layer, "int8", calibration_data=x, example_inputs=(x,), target="onednn").canonical
    results: list[Any] = []
    called = _openvino_session.Session.__call__
    monkeypatch.setattr(
        _openvino_session.Session, "__call__", lambda self, args: results.append(called(self, args)) or results[-1]
    )
    openvino.build(canonical, (nn.Parameter(x),), threads=2)
    assert results and all(result is not None for result in results)
