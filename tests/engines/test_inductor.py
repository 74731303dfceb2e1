"""inductor as an engine: int8 kernels run, any batch goes, the process is as before, and what cannot be is refused."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import qdq
from fxquant.engines import _inductor_code, inductor
from fxquant.engines._inductor_graph import chosen_qparams, decomposed, layers_on_codes
from fxquant.engines.engine import EngineModule, EngineRefusal


class Convolutions(nn.Module):
    """Two int8 convolutions with a residual add, a transposed one, an input that is handed through, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 3)
        self.register_buffer("constant", torch.arange(3.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = torch.relu(self.first(x))
        return self.up(torch.relu(self.second(a) + a)), x, self.constant


def canonical_of(model: nn.Module, x: Tensor, preset: str = "int8") -> fx.GraphModule:
    data = [x] if preset == "int8" else None
    return fxquant.compile(model.eval(), preset, calibration_data=data, example_inputs=(x,), target="onednn").canonical


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def convolutions(pictures: Tensor) -> fx.GraphModule:
    torch.manual_seed(0)
    return canonical_of(Convolutions(), pictures)


@pytest.fixture(scope="module")
def engine(convolutions: fx.GraphModule, pictures: Tensor) -> EngineModule:
    return inductor.build(convolutions, (pictures,), threads=1)


def agrees(found: Tensor, expected: Tensor, steps: float = 2.0) -> None:
    """Within so many steps of 8 bits of the expected range: each requantization may round the other way."""
    step = float(expected.max() - expected.min()) / 255
    torch.testing.assert_close(found, expected, rtol=0, atol=steps * step)


def test_convolutions_run_on_int8_kernels_and_give_the_canonical_numbers(
    engine: EngineModule, convolutions: fx.GraphModule, pictures: Tensor
) -> None:
    assert inductor.kernels(engine) == {"qconv_pointwise": 2}
    assert engine.rows() == {"conv2d": "int8", "conv2d_1": "int8"}
    agrees(engine(pictures)[0], convolutions(pictures)[0])


def test_what_is_handed_through_is_copied_for_each_caller(engine: EngineModule, pictures: Tensor) -> None:
    before = pictures.clone()
    for _ in range(2):
        outputs = engine(pictures)
        assert outputs[1].equal(before) and outputs[2].equal(torch.arange(3.0))
        for output in outputs:
            output.zero_()
    assert pictures.equal(before)


def test_a_copy_shares_the_code(engine: EngineModule) -> None:
    assert copy.deepcopy(engine) is engine


def test_inputs_of_other_strides_and_under_other_modes_give_the_same(engine: EngineModule, pictures: Tensor) -> None:
    expected = engine(pictures)[0]
    strided = pictures.transpose(2, 3).contiguous().transpose(2, 3)
    last = pictures.contiguous(memory_format=torch.channels_last)
    assert engine(strided)[0].equal(expected) and engine(last)[0].equal(expected)
    learned = engine(pictures.clone().requires_grad_())[0]
    assert learned.equal(expected) and not learned.requires_grad
    with torch.inference_mode():
        assert engine(pictures)[0].equal(expected)


def test_threads_call_one_engine_at_once(engine: EngineModule, pictures: Tensor) -> None:
    batches = [pictures + shift for shift in range(4)]
    expected, found = [engine(batch)[0] for batch in batches], dict[int, list[Tensor]]()

    def work(index: int) -> None:
        found[index] = [engine(batches[index])[0] for _ in range(20)]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(value.equal(expected[index]) for index in range(4) for value in found[index])


@pytest.mark.parametrize("given", [torch.float64, torch.int64, torch.uint8])
def test_another_dtype_is_refused(engine: EngineModule, pictures: Tensor, given: torch.dtype) -> None:
    with pytest.raises(RuntimeError, match=f"compiled for torch.float32, not {given}"):
        engine(pictures.to(given))


def test_an_empty_batch_runs_the_canonical_graph(engine: EngineModule, pictures: Tensor) -> None:
    assert engine(pictures[:0])[0].shape == (0, 4, 10, 10)


def test_any_batch_goes_with_one_more_compilation_and_the_process_is_as_before(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(20, 32), nn.GELU(), nn.Linear(32, 24)), torch.randn(2, 20)
    canonical = canonical_of(layer, x, "int8-dynamic")
    made: list[object] = []
    real = _inductor_code._compiled
    monkeypatch.setattr(_inductor_code, "_compiled", lambda *given: made.append(given) or real(*given))
    before = _process()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = inductor.build(canonical, (x[:1],), threads=1)
        assert inductor.kernels(engine) == {"qlinear_pointwise": 2} and set(engine.rows().values()) == {"int8"}
        for rows in (1, 3, 16, 2):
            batch = torch.randn(rows, 20, generator=torch.Generator().manual_seed(rows))
            torch.testing.assert_close(engine(batch)[0], canonical(batch)[0])
    assert len(made) == 2
    assert _process() == before and capfd.readouterr() == ("", "")
    with pytest.raises(RuntimeError):
        engine(torch.randn(2, 21))  # what the graph refuses is refused by it


def _process() -> tuple[object, ...]:
    import torch._inductor.config as config

    loggers = [logging.getLogger(name).level for name in ("torch._inductor", "torch._dynamo", "torch.fx")]
    settings = config.freezing, config.cpp_wrapper, config.cpp.threads, config.compile_threads
    seed = torch.random.get_rng_state().tolist()
    return dict(os.environ), loggers, settings, seed, torch.get_num_threads(), list(warnings.filters)


def test_without_a_compiler_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, convolutions: fx.GraphModule, pictures: Tensor
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *given, **options: None)
    with pytest.raises(EngineRefusal, match="no C\\+\\+ compiler: "):
        inductor.build(convolutions, (pictures,), threads=1)


def test_a_compiler_that_fails_is_a_refusal_in_one_line(
    monkeypatch: pytest.MonkeyPatch, convolutions: fx.GraphModule, pictures: Tensor
) -> None:
    def fails(*given: object, **options: object) -> None:
        raise RuntimeError("the compiler\nsays no")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, when it imports its compiler
        monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fails)
    with pytest.raises(EngineRefusal) as refusal:
        inductor.build(convolutions, (pictures,), threads=1)
    assert (refusal.value.why, refusal.value.node) == ("RuntimeError: the compiler", "")


class Branching(nn.Module):
    """Nothing can trace it without values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_an_op_that_needs_values_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Branching())
    compiled = fxquant.compile(model.eval(), "int8", calibration_data=[torch.randn(2, 4)], leaf_modules=[Branching])
    with pytest.raises(EngineRefusal) as refusal:
        inductor.build(compiled.canonical, (torch.randn(2, 4),), threads=1)
    assert refusal.value.node == next(node.name for node in compiled.canonical.graph.nodes if node.op == "call_module")


def test_recurrent_layers_are_refused_by_name() -> None:
    canonical = canonical_of(nn.LSTM(4, 4), torch.randn(5, 1, 4), "int8-dynamic")
    with pytest.raises(EngineRefusal, match="unroll lstm step by step") as refusal:
        inductor.build(canonical, (torch.randn(5, 1, 4),), threads=1)
    assert refusal.value.node


@pytest.mark.parametrize("is_reduced", [False, True])
@pytest.mark.parametrize("shift, spread", [(0.0, 1.0), (5.0, 1.0), (-5.0, 0.1), (0.0, 1e-5), (0.0, 0.0), (3.0, 0.0)])
def test_dynamic_ranges_are_those_of_torchs_kernels(shift: float, spread: float, is_reduced: bool) -> None:
    for seed in range(20):
        x = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * spread + shift
        scale, zero_point = chosen_qparams(x, is_reduced)
        expected = qdq.choose_qparams(x, is_reduced)
        assert (float(scale), int(zero_point)) == (pytest.approx(expected[0], rel=1e-7), expected[1])


def hand_made(low: int, high: int, dtype: torch.dtype, zero_point: int, weight_zero_point: int = 0) -> fx.GraphModule:
    """quantize → dequantize → linear → , with these codes."""
    graph, root = fx.Graph(), nn.Module()
    codes = torch.randint(-127, 128, (24, 20), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    root.register_buffer("codes", codes)
    x = graph.placeholder("x")
    quantized = graph.call_function(qdq.quantize_per_tensor, (x, 0.02, zero_point, low, high, dtype))
    value = graph.call_function(qdq.dequantize_per_tensor, (quantized, 0.02, zero_point))
    weight = graph.call_function(qdq.dequantize_per_tensor, (graph.get_attr("codes"), 0.01, weight_zero_point))
    graph.output((graph.call_function(F.linear, (value, weight)),))
    return fx.GraphModule(root, graph)


def test_signed_codes_are_shifted_to_unsigned_ones_and_weights_of_one_scale_get_one_for_each_row() -> None:
    graph, x = hand_made(-128, 127, torch.int8, 3), torch.randn(4, 20)
    made = decomposed(graph)
    told = {str(node.target): node.args for node in made.graph.nodes if node.op == "call_function"}
    assert told["quantized_decomposed.quantize_per_tensor.default"][1:] == (0.02, 131, 0, 255, torch.uint8)
    assert told["quantized_decomposed.dequantize_per_channel.default"][3:] == (0, -128, 127, torch.int8)
    torch.testing.assert_close(made(x)[0], graph(x)[0], rtol=0, atol=1e-6)
    assert graph.graph.find_nodes(op="call_function", target=qdq.quantize_per_tensor)[0].args[2] == 3


@pytest.mark.parametrize(
    "graph",
    [hand_made(0, 127, torch.uint8, 3), hand_made(-8, 7, torch.int8, 0), hand_made(0, 255, torch.uint8, 3, 1)],
    ids=["7 bits", "4 bits", "asymmetric weights"],
)
def test_what_the_kernels_would_compute_otherwise_stays_plain_arithmetic(graph: fx.GraphModule) -> None:
    x = torch.randn(4, 20)
    assert layers_on_codes(graph) == () and decomposed(graph)(x)[0].equal(graph(x)[0])
