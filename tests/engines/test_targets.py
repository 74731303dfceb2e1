"""Every target under inputs and models that are out of the ordinary: it gives what the canonical graph gives, or says no."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import FxQuantError
from fxquant.model import CompiledModel
from support.asserts import untouched

TARGETS = ("x86", "onednn", "onnxruntime", "openvino")


class Net(nn.Module):
    """A convolution, an add, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.first(x))
        return self.fc(torch.relu(self.second(a) + a).mean((2, 3)))


def pictures(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def compiled(model: nn.Module, *inputs: Tensor, target: str, **options: Any) -> CompiledModel:
    """For this target and no other: a fallback would be tested in its place."""
    torch.manual_seed(0)
    made = fxquant.compile(model.eval(), "int8", calibration_data=[inputs], target=target, **options)
    assert made.target == target, [str(row) for row in made.ledger.notices]
    return made


@pytest.fixture(scope="module", params=TARGETS)
def net(request: pytest.FixtureRequest) -> CompiledModel:
    torch.manual_seed(0)
    return compiled(Net(), pictures(4), target=request.param)


def agrees(model: CompiledModel, *inputs: Tensor) -> Tensor:
    """Within three steps of 8 bits of the canonical graph: kernels round in an order of their own."""
    found, expected = model(*inputs), model.canonical(*inputs)[0]
    step = float(expected.max() - expected.min()) / 255 if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=3 * step)
    return found


# Inputs --------------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second row": lambda x: torch.stack((x, x), 1).flatten(0, 1)[::2],
    "at an offset": lambda x: torch.cat((torch.zeros(1), x.flatten()))[1:].view_as(x),
    "negated lazily": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
    "with a gradient": lambda x: x.clone().requires_grad_(),
    "computed with a gradient": lambda x: x.clone().requires_grad_() * 1.0,
    "a parameter": nn.Parameter,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_of_any_layout_gives_the_same(net: CompiledModel, layout: str) -> None:
    plain = pictures(3)
    laid = LAYOUTS[layout](plain)
    assert laid.detach().equal(plain)
    found = net(laid)
    torch.testing.assert_close(found, net(plain), rtol=0, atol=0)
    assert not found.requires_grad


def test_an_expanded_row_is_as_many_rows(net: CompiledModel) -> None:
    row = pictures(1)
    torch.testing.assert_close(net(row.expand(3, -1, -1, -1)), net(row.repeat(3, 1, 1, 1)), rtol=0, atol=0)


def test_batches_of_any_size_go_one_after_the_other(net: CompiledModel) -> None:
    for rows in (1, 3, 16, 2, 1):
        assert agrees(net, pictures(rows)).shape == (rows, 5)


def test_an_empty_batch_gives_an_empty_result(net: CompiledModel) -> None:
    assert net(pictures(0)).shape == (0, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_values_out_of_all_range_give_a_result_of_the_right_shape(net: CompiledModel, value: float) -> None:
    x = pictures(2)
    x[0] = value
    found = net(x)
    assert found.shape == (2, 5) and found.dtype is torch.float32
    torch.testing.assert_close(found[1], net(pictures(2))[1], rtol=0, atol=0)  # no other row is touched


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_another_dtype_is_cast_or_refused_by_name(net: CompiledModel, dtype: torch.dtype) -> None:
    x = pictures(2).to(dtype)
    try:
        found = net(x)
    except FxQuantError as error:
        assert error.code in ("FXQ503", "FXQ515", "FXQ107") and str(dtype).removeprefix("torch.") in str(error)
    else:
        torch.testing.assert_close(found, net(x.float()), rtol=0, atol=0)


@pytest.mark.parametrize("x", [torch.zeros(()), torch.zeros(3), torch.zeros(2, 4, 8, 8), torch.zeros(2, 3, 8, 8, 1)])
def test_a_shape_that_the_model_refuses_is_fxq503(net: CompiledModel, x: Tensor) -> None:
    with pytest.raises(FxQuantError) as refusal:
        net(x)
    assert refusal.value.code == "FXQ503" and str(list(x.shape)) in str(refusal.value)
    agrees(net, pictures(2))


# How it is called ----------------------------------------------------------------------------------------------------


def test_results_share_no_memory_and_inputs_are_not_written_to(net: CompiledModel) -> None:
    x = pictures(2)
    first, kept = net(x), pictures(2)
    copy = first.clone()
    second = net(pictures(2, seed=1))
    assert first.equal(copy) and x.equal(kept) and not first.equal(second)
    first.zero_()
    assert net(x).equal(copy)


KEPT: dict[str, Callable[[Tensor], Any]] = {
    "the tensor": lambda y: y,
    "a view": lambda y: y.view(-1)[1:],
    "a row": lambda y: y[1],
    "an alias without gradients": lambda y: y.detach(),
    "an array": lambda y: y.numpy(),
    "its storage": lambda y: y.untyped_storage(),
    "a consumer of its memory": lambda y: torch.from_dlpack(y),
}


@pytest.mark.parametrize("kept", KEPT)
def test_what_a_caller_keeps_of_a_result_stays_as_it_is(net: CompiledModel, kept: str) -> None:
    held = [KEPT[kept](net(pictures(3, seed=index))) for index in range(4)]
    again = [KEPT[kept](net(pictures(3, seed=index)).clone()) for index in range(4)]
    assert [bytes(memoryview(_array(value))) for value in held] == [bytes(memoryview(_array(value))) for value in again]
    assert len({_array(value).ctypes.data for value in held}) == 4


def _array(value: Any) -> Any:
    if isinstance(value, torch.UntypedStorage):
        return torch.tensor([], dtype=torch.float32).set_(value).numpy()
    return value.numpy() if isinstance(value, Tensor) else value


def test_hooks_see_a_call_and_may_change_it(net: CompiledModel) -> None:
    x, expected = pictures(3), net(pictures(3))
    before = net.register_forward_pre_hook(lambda module, args: (args[0] * 0,))
    after = net.register_forward_hook(lambda module, args, output: output + 1)
    everywhere = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    try:
        torch.testing.assert_close(net(x), net.forward(x * 0) + 1, rtol=0, atol=0)
    finally:
        for handle in (before, after, everywhere):
            handle.remove()
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)


def test_a_buffer_that_comes_again_is_read_anew_and_so_is_any_view_of_it(net: CompiledModel) -> None:
    buffer = pictures(3)
    net(buffer)
    buffer.copy_(pictures(3, seed=1))
    views = [buffer, buffer.transpose(2, 3), torch._neg_view(buffer), buffer[:1], buffer[1:2], buffer]
    for view in views:
        torch.testing.assert_close(net(view), net(view.clone(memory_format=torch.contiguous_format)), rtol=0, atol=0)


def test_threads_call_it_at_once(net: CompiledModel) -> None:
    batches = [pictures(rows, seed) for seed, rows in enumerate((1, 2, 3, 2))]
    expected, found = [net(batch) for batch in batches], dict[int, list[Tensor]]()

    def work(index: int) -> None:
        found[index] = [net(batches[index]) for _ in range(10)]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(batches))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == len(batches)
    for index, values in found.items():
        for value in values:
            torch.testing.assert_close(value, expected[index], rtol=0, atol=0)


@contextmanager
def _float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


MODES: dict[str, Callable[[], Any]] = {
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64 by default": _float64_by_default,
    "other threads": _two_threads,
}


@pytest.mark.parametrize("mode", MODES)
def test_a_call_under_another_mode_gives_the_same_and_leaves_it(net: CompiledModel, mode: str) -> None:
    x, larger = pictures(3), pictures(5)
    expected = net(x)
    with MODES[mode](), untouched():
        found, other = net(x), net(larger)  # of a shape that comes for the first time
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found.dtype is torch.float32 and other.shape == (5, 5)


def _in_child(net: CompiledModel, sent: Any) -> None:
    torch.set_num_threads(1)
    sent.send(net(pictures(3)).tolist())


def test_a_forked_process_gives_the_same(net: CompiledModel) -> None:
    expected = net(pictures(3)).tolist()
    context = multiprocessing.get_context("fork")
    received, sent = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(net, sent))
    child.start()
    try:
        assert received.poll(20), "the child hangs"
        assert received.recv() == expected
    finally:
        child.kill()
        child.join()


# Models --------------------------------------------------------------------------------------------------------------


@dataclass
class Both:
    values: Tensor
    largest: Tensor


class Outputs(nn.Module):
    """A dictionary of outputs: of several dtypes, the input itself, a constant, a buffer, a number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.register_buffer("table", torch.arange(4))

    def forward(self, x: Tensor, *, shift: Tensor) -> dict[str, Any]:
        y = self.fc(x) + shift
        return {
            "y": y,
            "both": Both(y, y.argmax(-1)),
            "positive": y > 0,
            "same": x,
            "table": self.table,
            "number": 3,
            "twice": [y, y],
        }


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.table


class Plain(nn.Module):
    """Nothing to quantize."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x * 2, -1)


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Sorted(nn.Module):
    """An op that no engine has a quantized kernel for, between two that have."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.fft.fft(self.up(x)).abs())


@pytest.mark.parametrize("target", TARGETS)
def test_nested_outputs_and_keywords_come_back_as_they_are(target: str) -> None:
    torch.manual_seed(0)
    x, shift = torch.randn(3, 6), torch.randn(4)
    model = Outputs()
    made = fxquant.compile(model.eval(), "int8", calibration_data=[((x,), {"shift": shift})], target=target)
    for given in (x, x.repeat(2, 1)):
        found = made(given, shift=shift)
        assert list(found) == ["y", "both", "positive", "same", "table", "number", "twice"]
        assert isinstance(found["both"], Both) and found["both"].largest.dtype is torch.int64
        assert found["positive"].dtype is torch.bool and found["positive"].equal(found["y"] > 0)
        assert found["both"].largest.equal(found["y"].argmax(-1))
        assert found["same"].equal(given) and found["table"].equal(torch.arange(4)) and found["number"] == 3
        assert found["twice"][0].equal(found["y"])
        torch.testing.assert_close(found["y"], model(given, shift=shift)["y"], rtol=0, atol=0.1)


@pytest.mark.parametrize("model", [Same(), Constant(), Plain()], ids=["same", "constant", "plain"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_model_without_a_layer_gives_its_numbers(target: str, model: nn.Module) -> None:
    x = torch.randn(2, 4)
    made = fxquant.compile(model.eval(), "int8", calibration_data=[x], target=target)
    for given in (x, x.repeat(2, 1)):
        torch.testing.assert_close(made(given), model(given), rtol=0, atol=0.02)


@pytest.mark.parametrize("target", TARGETS)
def test_sequences_of_any_length_go(target: str) -> None:
    torch.manual_seed(0)
    made = compiled(Sequence(), torch.randn(2, 7, 6), target=target)
    for shape in ((2, 7, 6), (2, 3, 6), (4, 12, 6), (2, 7, 6)):
        agrees(made, torch.randn(shape))
    try:
        agrees(made, torch.randn(3, 6))
    except FxQuantError as error:  # an engine may fix how many dimensions there are, and says so
        assert error.code == "FXQ515" and "[3, 6]" in str(error)


@pytest.mark.parametrize("target", TARGETS)
def test_an_op_that_no_engine_has_stays_in_torch_or_another_target_runs_it_and_it_is_said(target: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6)
    made = fxquant.compile(Sorted().eval(), "int8", calibration_data=[x], target=target)
    agrees(made, x), agrees(made, torch.randn(5, 6))
    said = " ".join(row.reason for row in made.ledger)
    assert made.target == target or f"{made.target} runs it instead" in said
    linears = [row.effective for row in made.ledger.layers if row.op == "Linear"]
    assert len(linears) == 2 and all(linears)
