"""OpenVINO runs the canonical graph: close to it, on any shape, from any thread, and its refusals name the node."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.engines import _openvino_requests
from fxquant.engines.engine import EngineRefusal
from fxquant.engines.openvino import OpenVINOModule, build
from fxquant.engines.openvino_costs import node_times
from fxquant.engines.openvino_placement import placed
from fxquant.numerics import sqnr_db
from support.models import MODELS

BFLOAT16_DB = 40.0  # floats of 8 bits: a rounding error of 2⁻⁹ in each of some layers is 40 dB or more


class Small(nn.Module):
    """Convolution, skip connection, transposed right side of a product, and a layer of any batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x) + x).flatten(2).transpose(1, 2)
        return self.head(torch.softmax(torch.matmul(x, x.transpose(1, 2)) / 8, -1) @ x)


class WithoutForm(nn.Module):
    """An op that torch.export takes and OpenVINO does not."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.logcumsumexp(self.fc(x), -1)


@cache
def canonical_of(name: str, preset: str) -> tuple[fx.GraphModule, tuple[Tensor, ...], nn.Module]:
    case = MODELS[name]
    model, batches = case.make().eval(), case.batches(2, 8)
    data = batches if preset == "int8" else None
    compiled = fxquant.compile(model, preset, calibration_data=data, example_inputs=batches[0], target="onednn")
    return compiled.canonical, tuple(batches[0]), model


@cache
def small() -> tuple[fx.GraphModule, Tensor, OpenVINOModule]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    canonical = fxquant.compile(Small().eval(), "int8", calibration_data=[x], target="onednn").canonical
    engine = build(canonical, (x,), threads=1)
    assert isinstance(engine, OpenVINOModule)
    return canonical, x, engine


def near(expected: Tensor, got: Tensor) -> bool:
    return sqnr_db(expected, got) > 25.0  # of 8 bits; ties of rounding may fall to either side


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("resnet18", "int8"),
        ("unet", "int8"),
        ("lstm_both_ways", "int8"),
        ("gru", "int8-dynamic"),
        ("encoder", "int8-weight-only"),
        ("lstm_state", "int8-weight-only"),
        ("mlp", "int4-weight-only"),
    ],
)
def test_its_output_is_as_near_to_the_float_model_as_the_canonical_graphs(name: str, preset: str) -> None:
    canonical, leaves, model = canonical_of(name, preset)
    engine = build(placed(canonical), leaves, threads=1)
    with torch.no_grad():
        exact = model(*leaves)
        own = sqnr_db(exact, canonical(*leaves)[0])
    assert sqnr_db(exact, engine(*leaves)[0]) >= min(own, BFLOAT16_DB) - 1.0


def test_other_shapes_are_compiled_when_they_come_and_the_graphs_kept_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.engines.openvino.MOST_SHAPES", 2)
    canonical, x, _ = small()
    engine = build(canonical, (x,), threads=1)
    assert isinstance(engine, OpenVINOModule)
    for batch in (1, 2, 3, 5):
        given = torch.randn(batch, *x.shape[1:])
        assert near(canonical(given)[0], engine(given)[0])
    assert len(engine._sessions) == 2 and engine._open is not None and engine._open.takes(((7, 3, 8, 8),))


def test_a_shape_that_the_graph_does_not_take_is_a_runtime_error() -> None:
    _, x, engine = small()
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 2 channels"):  # the graph's own words
        engine(x[:, :2])


def test_a_shape_that_the_graph_takes_and_openvino_does_not_is_a_runtime_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineRefusal("no form of it")

    _, x, engine = small()
    monkeypatch.setattr("fxquant.engines.openvino.to_model", refuse)
    with pytest.raises(RuntimeError, match="OpenVINO: no form of it"):
        engine(x[:, :, :5])


def test_results_own_their_memory_and_inputs_stay_as_they_are() -> None:
    _, x, engine = small()
    given = x.clone()
    first = engine(given)[0]
    kept = first.clone()
    second = engine(torch.zeros_like(x))[0]
    assert torch.equal(first, kept) and torch.equal(given, x)
    assert first.data_ptr() != second.data_ptr() and not torch.equal(first, second)


def test_calls_from_several_threads_do_not_meet() -> None:
    _, x, engine = small()
    inputs = [x * (index + 1) for index in range(12)]
    alone = [engine(given)[0] for given in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda given: engine(given)[0], inputs))
    assert all(map(torch.equal, alone, together))


def test_an_input_in_another_memory_format_is_read_as_it_is() -> None:
    _, x, engine = small()
    assert torch.equal(engine(x.to(memory_format=torch.channels_last))[0], engine(x)[0])
    assert torch.equal(engine(x.requires_grad_())[0], engine(x.detach())[0])


def test_integers_widen_and_other_dtypes_are_refused_by_name() -> None:
    canonical, (ids,), _ = canonical_of("gru", "int8-dynamic")
    engine = build(canonical, (ids,), threads=1)
    assert torch.equal(engine(ids.to(torch.int32))[0], engine(ids)[0])
    with pytest.raises(RuntimeError, match=r"input 0 is torch\.float32, the graph was compiled for torch\.int64"):
        engine(ids.float())
    _, x, on_floats = small()
    with pytest.raises(RuntimeError, match=r"input 0 is torch\.float64"):
        on_floats(x.double())


def test_an_op_without_a_form_is_refused_and_its_node_named() -> None:
    canonical = fxquant.compile(WithoutForm().eval(), "int8-weight-only", target="onednn").canonical
    with pytest.raises(EngineRefusal, match=r"no form of aten\.logcumsumexp") as refused:
        build(canonical, (torch.randn(2, 8),), threads=1)
    assert refused.value.node == "logcumsumexp"


def test_what_each_node_computes_in_is_read_off_the_compiled_graph() -> None:
    canonical, _, engine = small()
    rows = engine.rows()
    assert rows["conv2d"] == rows["conv2d_1"] == rows["linear"] == "int8"
    assert set(rows) <= {node.name for node in canonical.graph.nodes}
    assert engine.float_type in ("bfloat16", "float32")


def test_times_of_nodes_add_up_to_a_call_and_layers_take_some() -> None:
    canonical, x, _ = small()
    times = node_times(placed(canonical), (x,), threads=1, repeats=5)
    assert all(seconds >= 0 for seconds in times.values())
    assert times["conv2d"] > 0 and 0 < math.fsum(times.values()) < 1.0


@pytest.mark.parametrize("limit", [0, 2**20])
def test_memory_of_a_result_that_is_gone_is_used_again(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(_openvino_requests, "MOST_BYTES", limit)
    canonical, x, _ = small()
    engine = build(canonical, (x,), threads=1)
    assert isinstance(engine, OpenVINOModule)
    engine(x)
    first = engine(x)[0]
    place = first.data_ptr()
    assert engine(x)[0].data_ptr() != place
    view = first[1:]
    del first
    assert all(engine(x)[0].data_ptr() != place for _ in range(3))
    del view
    places = {engine(x)[0].data_ptr() for _ in range(3)}
    assert len(places) == 1 and len(engine._first._idle[0].buffers) == (2 if limit else 1)


SIGNALLED = """
import faulthandler, gc, signal, threading
import torch, fxquant

faulthandler.enable()
x = torch.randn(2, 4)
held = [fxquant.compile(torch.nn.Linear(4, 4), "int8", calibration_data=x, example_inputs=(x,), target="openvino")]
assert held[0].target == "openvino"

def drop():
    held.clear()
    gc.collect()

dropping = threading.Thread(target=drop)
dropping.start()
dropping.join()
caught = []
signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
signal.raise_signal(signal.SIGTERM)
assert caught == [signal.SIGTERM]
"""


def test_a_signal_after_another_thread_dropped_the_last_model_is_handled() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Centred(nn.Module):
    """Its buffer has the name of an op that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.register_buffer("mean", torch.full((8,), 0.4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x - self.mean).mean(1)  # type: ignore[no-any-return]


def test_a_tensor_of_the_models_own_may_have_the_name_of_an_op() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 8)
    compiled = fxquant.compile(Centred().eval(), "int8", calibration_data=[x], target="openvino")
    assert compiled.target == "openvino"
    assert sqnr_db(compiled.canonical(x)[0], compiled(x)) > 25


class OfMaxima(nn.Module):
    """A layer that reads maxima, as PointNet and CBAM do: of a reduction, of a pooling, joined with means."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.kind = nn.Conv2d(3, 8, 3), kind
        self.head = nn.Linear(16 if kind == "joined" else 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.kind == "amax":
            return self.head(y.flatten(2).amax(2))  # type: ignore[no-any-return]
        if self.kind == "channels":
            return self.head(y.amax(1).flatten(1)[:, :8])  # type: ignore[no-any-return]
        if self.kind == "pool":
            return self.head(nn.functional.adaptive_max_pool2d(y, 1).flatten(1))  # type: ignore[no-any-return]
        return self.head(torch.cat((y.amax((2, 3)), y.mean((2, 3))), 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["amax", "channels", "pool", "joined"])
def test_maxima_that_a_layer_reads_are_not_rounded_to_whole_numbers(kind: str) -> None:
    torch.manual_seed(0)
    model, x = OfMaxima(kind).eval(), torch.randn(64, 3, 8, 8)
    compiled = fxquant.compile(model, "int8", calibration_data=[x], target="openvino")
    assert compiled.target == "openvino"
    with torch.no_grad():
        assert sqnr_db(model(x), compiled(x)) > 30
        assert sqnr_db(model(x), torch.cat([compiled(row) for row in x.split(1)])) > 30


class Complex(nn.Module):
    """Rotary embedding by complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(8, 8), nn.Linear(8, 2)
        self.register_buffer("turns", torch.polar(torch.ones(3, 4), torch.arange(12.0).view(3, 4)))

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(self.query(x).reshape(*x.shape[:-1], 4, 2))
        return self.out(torch.view_as_real(pairs * self.turns).flatten(2))


def test_complex_numbers_are_refused_by_their_name() -> None:
    data = torch.randn(16, 3, 8, generator=torch.Generator().manual_seed(0))
    compiled = fxquant.compile(Complex().eval(), "int8", calibration_data=data, target="openvino")
    (told,) = (notice.reason for notice in compiled.ledger.notices if notice.code == "FXQ512")
    assert "no form of aten.view_as_complex" in told and "complex numbers" in told and "FrontEnd" not in told


@pytest.mark.parametrize("preset", ["int8", "int8-dynamic"])
def test_a_vector_through_linear_layers_stays_a_vector(preset: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.randn(16, generator=torch.Generator().manual_seed(0))
    compiled = fxquant.compile(model, preset, calibration_data=[x], target="openvino")
    assert compiled.target == "openvino" and compiled(x).shape == (4,)
    assert sqnr_db(model(x), compiled(x)) > 25
