"""Models and batches on another device: the plan without one, the flow on tensors that claim to be there, and CUDA."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import arrival, preflight
from fxquant.arrival import Arrival, Described, planned
from fxquant.errors import DeviceError, LoweringError
from fxquant.ledger import Ledger
from fxquant.numerics import sqnr_db
from support.asserts import untouched

HALF, FULL = torch.float16, torch.float32


def seen(*items):
    return [Described(f"layer{index}.weight", *item) for index, item in enumerate(items)]


@pytest.mark.parametrize(
    ("items", "plan"),
    [
        ([(FULL, "cpu")], Arrival()),
        ([(FULL, "cuda"), (FULL, "cpu")], Arrival(moved=frozenset({"cuda"}))),
        ([(FULL, "cuda"), (FULL, "mps")], Arrival(moved=frozenset({"cuda", "mps"}))),
        ([(HALF, "cuda")], Arrival(frozenset({HALF}), frozenset({"cuda"}))),
        ([(torch.int64, "cuda", False)], Arrival(moved=frozenset({"cuda"}))),
        ([], Arrival()),
    ],
)
def test_the_plan_is_made_from_names_dtypes_and_devices_alone(items, plan):
    assert planned(seen(*items)) == plan and plan.is_plain is (plan == Arrival())


@pytest.mark.parametrize("others", [[], [(FULL, "cpu")], [(FULL, "cuda"), (HALF, "cpu")]])
def test_a_meta_parameter_among_real_ones_is_refused_by_name(others):
    with pytest.raises(DeviceError) as caught:
        planned(seen(*others, (FULL, "meta")))
    assert caught.value.code == "FXQ222" and f"'layer{len(others)}.weight' is on meta" in caught.value.message
    assert "1 on meta" in caught.value.message and caught.value.module == f"layer{len(others)}"


class Elsewhere(torch.Tensor):
    """A tensor on the CPU that claims to be on a GPU until it is moved."""

    @property
    def device(self):
        return torch.device("cuda", 0)

    def to(self, *args, **kwargs):
        return self.as_subclass(torch.Tensor).to(*args, **kwargs)


def elsewhere(tensor):
    return tensor.as_subclass(Elsewhere)


class Net(nn.Module):
    """Reads devices in forward, as models do that were written for a GPU."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.register_buffer("shift", torch.linspace(0, 1, 8))

    def forward(self, x):
        y = torch.relu(self.body(x.to(self.body.weight.device))) + self.shift
        y = y + torch.zeros(8, device=x.device, dtype=y.dtype)
        y = y + torch.ones(y.shape[-1], device=self.shift.device, dtype=self.shift.dtype)
        return self.head(y)


class WrittenOut(Net):
    """Devices as literals."""

    def forward(self, x):
        y = torch.relu(self.body(x.to("cuda"))) + self.shift.to(torch.device("cuda:0"))
        return self.head(y.cuda() + torch.zeros(y.shape[-1], device="cuda", dtype=y.dtype))


def seeded(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


def rows():
    return torch.randn(32, 8, generator=torch.Generator().manual_seed(1))


def far_away(model):
    """Every parameter and buffer claims to be on a GPU."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            module._parameters[name] = nn.Parameter(elsewhere(parameter.detach()))
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = elsewhere(buffer)
    return model


@pytest.mark.parametrize("policy", ["int8", "int8-dynamic", "int8-weight-only"])
@pytest.mark.parametrize("kind", [Net, WrittenOut])
def test_a_model_elsewhere_is_compiled_on_the_cpu_and_that_is_told(kind, policy):
    near = fxquant.compile(seeded(Net), policy, calibration_data=rows(), target="x86")
    model = far_away(seeded(kind))
    made = fxquant.compile(model, policy, calibration_data=rows(), target="x86")
    assert isinstance(model.body.weight, Elsewhere), "the caller's stays where it is"
    [row] = [row for row in made.ledger.notices if row.code == "FXQ234"]
    assert "5 parameters and buffers were copied to the CPU (5 from cuda)" in row.reason
    assert {type(tensor) for tensor in made.state_dict().values()} <= {torch.Tensor, nn.Parameter}
    if kind is Net:
        assert made(rows()).equal(near(rows()))
    else:
        told = [row.reason for row in made.ledger.layers if "forward() says cuda" in row.reason]
        assert len(told) >= 3
        assert made(rows()).shape == (32, 4)


def test_a_hard_coded_device_in_a_model_on_the_cpu_is_left_to_the_user():
    copied = preflight.fork(seeded(Net))
    assert arrival.arrival_of(copied) == Arrival()


def test_calibration_batches_elsewhere_are_moved_and_told_once():
    model, batches = seeded(Net), [elsewhere(rows()), elsewhere(rows())]
    with untouched(model):
        made = fxquant.compile(model, "int8", calibration_data=batches, target="x86")
    told = [row.reason for row in made.ledger.notices if row.code == "FXQ234"]
    assert told == ["calibration batches come from cuda:0: each is copied to the CPU"]
    assert made(rows()).equal(fxquant.compile(model, "int8", calibration_data=[rows()] * 2, target="x86")(rows()))


def test_calls_that_calibrate_take_batches_from_elsewhere():
    waiting = fxquant.compile(seeded(Net), "int8", target="x86")
    assert type(waiting(elsewhere(rows()))) is torch.Tensor
    waiting.convert()
    assert [row.code for row in waiting.ledger.notices].count("FXQ234") == 1


def test_a_meta_batch_and_a_meta_example_have_no_values():
    for options in ({"calibration_data": [rows(), rows().to("meta")]}, {"example_inputs": (rows().to("meta"),)}):
        with pytest.raises(DeviceError, match=r"FXQ222.*'x' is on device 'meta'"):
            fxquant.compile(seeded(Net), "int8", target="x86", **options)


def test_a_meta_submodule_is_refused_and_the_model_untouched():
    model = seeded(Net)
    model.head = nn.Linear(8, 4, device="meta")
    with untouched(model), pytest.raises(DeviceError, match=r"FXQ222 'head.weight' is on meta"):
        preflight.check(model, Ledger())


# With a GPU: `pytest tests/incoming/test_devices.py` -------------------------------------------------------------------

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


@on_cuda
@pytest.mark.parametrize("policy", ["int8", "int8-dynamic", "int8-weight-only"])
@pytest.mark.parametrize("kind", [Net, WrittenOut])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_the_model_is_copied_and_the_callers_stays(kind, policy, dtype):
    model = seeded(kind).to("cuda", dtype)
    data = rows().to("cuda", dtype)
    before = torch.cuda.get_rng_state()
    with untouched(model):
        made = fxquant.compile(model, policy, calibration_data=[data, data], target="x86")
    assert model.body.weight.is_cuda and torch.cuda.get_rng_state().equal(before)
    with torch.no_grad():
        expected = model(data).cpu()
    assert sqnr_db(expected, made(data.cpu())) > 25
    assert {tensor.device.type for tensor in made.state_dict().values()} == {"cpu"}
    told = [row.code for row in made.ledger.notices].count("FXQ234")
    assert told == (2 if policy == "int8" else 1), "of the model, and of batches where any are used"


@on_cuda
def test_on_a_gpu_a_mixed_model_and_an_lstm_with_flat_weights():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 12, num_layers=2, batch_first=True).cuda(), nn.Linear(12, 3)

        def forward(self, x):
            return self.head(self.lstm(x.to(self.lstm.weight_ih_l0.device))[0][:, -1].to(self.head.weight.device))

    model, x = seeded(Mixed), torch.randn(16, 5, 8, generator=torch.Generator().manual_seed(1))
    made = fxquant.compile(model, "int8-dynamic", example_inputs=(x.cuda(),), target="x86")
    with torch.no_grad():
        assert sqnr_db(model(x), made(x)) > 25


@on_cuda
def test_on_a_gpu_calls_of_the_compiled_model_are_not_moved_in_silence():
    made = fxquant.compile(seeded(Net).cuda(), "int8", calibration_data=rows(), target="x86")
    with pytest.raises(LoweringError, match="FXQ503"):
        made(rows().cuda())


@on_cuda
def test_on_a_gpu_nothing_more_is_taken_there():
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8))).cuda().eval()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fxquant.compile(model, "int8-weight-only", example_inputs=(torch.randn(2, 512),), target="x86")
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() - before < 4 * 512 * 512 * 4, "no second copy of the model on the GPU"
