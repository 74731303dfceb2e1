"""Calls that torch records or transforms: no target keeps the result for one input as a constant in silence."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import fxquant
from fxquant.errors import FxQuantError, LoweringError
from fxquant.model import CompiledModel

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
OUTSIDE = ("onnxruntime", "openvino")


class Rolled(nn.Module):
    """Has an op that an engine may not know, so that it is called in pieces, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.special.bessel_j0(self.first(x)))


@pytest.fixture(scope="module", params=["onednn", *OUTSIDE])
def compiled(request: pytest.FixtureRequest) -> CompiledModel:
    return _compiled(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), request.param)


@pytest.fixture(scope="module", params=OUTSIDE)
def in_pieces(request: pytest.FixtureRequest) -> CompiledModel:
    return _compiled(Rolled(), request.param)


def _compiled(model: nn.Module, target: str) -> CompiledModel:
    torch.manual_seed(0)
    made = fxquant.compile(model.eval(), "int8", calibration_data=X, target=target)
    assert made.target == target, [str(row) for row in made.ledger.notices]
    return made


def _traced(model: CompiledModel) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, X, check_trace=False)


def _as_onnx(model: CompiledModel) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (X,), io.BytesIO(), dynamo=False)
    raise AssertionError("nothing reads this file: an export that goes through is wrong or right unseen")


RECORDERS: dict[str, Callable[[CompiledModel], Callable[[Tensor], Tensor]]] = {
    "torch.jit.trace": _traced,
    "torch.onnx.export": _as_onnx,
    "make_fx": lambda model: make_fx(model)(X),
    "make_fx, fake": lambda model: make_fx(model, tracing_mode="fake")(X),
    "make_fx, before dispatch": lambda model: make_fx(model, pre_dispatch=True)(X),
    "torch.export": lambda model: torch.export.export(model, (X,)).module(),
    "functionalize": torch.func.functionalize,
    "vmap": lambda model: lambda x: torch.vmap(lambda row: model(row[None])[0])(x),
    "grad": lambda model: lambda x: (torch.func.grad(lambda y: model(y).sum())(x), model(x))[1],
}


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("how", RECORDERS)
def test_what_is_recorded_computes_or_is_refused(compiled: CompiledModel, how: str) -> None:
    try:
        found = RECORDERS[how](compiled)(OTHER)
    except FxQuantError as error:
        assert error.code == ("FXQ515" if compiled.target in OUTSIDE else "FXQ503") and error.hint
    else:
        assert compiled.target not in OUTSIDE
        torch.testing.assert_close(found, compiled(OTHER))


@pytest.mark.parametrize("how", ["torch.jit.trace", "make_fx", "functionalize"])
def test_one_that_runs_in_pieces_is_refused_too(in_pieces: CompiledModel, how: str) -> None:
    with pytest.raises(LoweringError) as caught:
        RECORDERS[how](in_pieces)(OTHER)
    assert caught.value.code == "FXQ515"


class _Sees(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return function(*args, **(kwargs or {}))


def test_what_only_looks_on_is_no_recorder(compiled: CompiledModel) -> None:
    expected = compiled(OTHER)
    with _Sees(), torch.device("cpu"), torch.profiler.profile(), torch.inference_mode():
        assert torch.equal(compiled(OTHER), expected)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
def test_torch_compile_calls_it_as_it_is(compiled: CompiledModel) -> None:
    torch._dynamo.reset()
    around = torch.compile(nn.Sequential(compiled, nn.Identity()), backend="eager")
    for x in (X, OTHER):
        assert torch.equal(around(x), compiled(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_is_refused_by_name(compiled: CompiledModel) -> None:
    with pytest.raises(LoweringError, match=r"float32\[nested\] on cpu"):
        compiled(torch.nested.nested_tensor([X[:1], X[1:]]))


def test_a_device_that_torch_does_not_have_is_fxq503(compiled: CompiledModel) -> None:
    def moved(tensor: Tensor) -> Tensor:
        raise AssertionError("Torch not compiled with CUDA enabled")

    with pytest.raises(LoweringError, match="Torch not compiled with CUDA enabled") as caught:
        compiled._apply(moved)
    assert caught.value.code == "FXQ503" and caught.value.hint
