"""The model rows of the fault table that capture and the checks before it answer, and the golden text of FXQ210."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxquant import errors, preflight
from fxquant.capture import capture
from fxquant.ledger import Ledger
from fxquant.request import CaptureRequest
from support import shapes
from support.asserts import assert_same, untouched
from support.tracing import call, trace

GOLDEN = Path(__file__).parent.parent / "golden"


def captured(model: nn.Module, *args: object) -> tuple[object, Ledger]:
    """Check, fork and capture, as compile() does."""
    ledger = Ledger()
    with untouched(model):
        program = capture(CaptureRequest(preflight.fork(preflight.check(model, ledger)), args or None), ledger)
    return program, ledger


def codes(ledger: Ledger) -> list[str]:
    return [row.code for row in ledger.notices]


@pytest.mark.parametrize("row", [1, 13, 14, 15])
def test_rows_refused_before_tracing(row):
    model, code, culprit = {
        1: (torch.relu, "FXQ201", "builtin"),
        13: (nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)).eval(), "FXQ221", "'0.weight'"),
        14: (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")).eval(), "FXQ222", "'1.weight'"),
        15: (_with_nan(), "FXQ302", "'0.bias' holds 1 of 2"),
    }[row]
    with untouched(model if row != 1 else None), pytest.raises(errors.FxQuantError) as caught:
        preflight.check(model, Ledger())
    assert caught.value.code == code and culprit in str(caught.value)


def _with_nan() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    model[0].bias.data[1] = float("nan")
    return model


class _Loop(nn.Module):
    def forward(self, x):
        return [row * 2 for row in x]


class _Range(nn.Module):
    def forward(self, x):
        for _ in range(x.shape[0]):
            x = x + 1
        return x


class _Int(nn.Module):
    def forward(self, x):
        return x * int(x.sum())


class _Len(nn.Module):
    def forward(self, x):
        return x * len(x)


class _Float(nn.Module):
    def forward(self, x):
        return x * float(x.mean())


@pytest.mark.parametrize(
    ("make", "words", "line"),
    [
        (shapes.Branch, "a branch depends on the value of a tensor", "if x.sum() > 0:"),
        (_Loop, "a Python loop runs over a tensor", "return [row * 2 for row in x]"),
        (_Range, "range(), an index or a size", "for _ in range(x.shape[0]):"),
        (_Int, "int() needs the value", "return x * int(x.sum())"),
        (_Len, "len() needs the length", "return x * len(x)"),
        (_Float, "float() needs the value", "return x * float(x.mean())"),
    ],
)
@pytest.mark.parametrize("with_example", [True, False])
def test_rows_2_and_3_control_flow(make, words, line, with_example):
    model = make().eval()
    example = (torch.randn(2, 4),) if with_example else ()
    with pytest.raises(errors.UntraceableError) as caught:
        captured(model, *example)
    error = caught.value
    assert error.code == "FXQ210" and words in error.message and error.where.text == line
    assert all(remedy in error.hint for remedy in ("leaf_modules=", "concrete_args=", "rewrite"))


def test_golden_text_of_fxq210():
    with pytest.raises(errors.UntraceableError) as caught:
        captured(shapes.Deep().eval(), torch.randn(2, 4))
    folder = str(Path(shapes.__file__).parent)
    text = str(caught.value).replace(folder, "FOLDER")
    line = caught.value.where.line
    assert text.replace(f":{line},", ":LINE,").replace(f"line {line} ", "line LINE ") + "\n" == (
        GOLDEN / "FXQ210.txt"
    ).read_text(encoding="utf-8")
    assert caught.value.module == "blocks.0"


def test_row_4_item_assignment_is_captured():
    program, _ = captured(shapes.Views(), x := torch.randn(3, 4))
    assert_same(call(program, x), shapes.Views()(x))


@pytest.mark.parametrize("strict", [True, False])
def test_row_11_training_mode(strict):
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    ledger = Ledger()
    with untouched(model):
        if strict:
            with pytest.raises(errors.TrainingModeError, match="FXQ220"):
                preflight.check(model, ledger, strict=True)
            return
        assert preflight.check(model, ledger) is model
    assert codes(ledger) == ["FXQ220"] and model.training


def test_row_12_functional_dropout_is_off():
    class Model(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, training=self.training)

    program, _ = captured(Model(), x := torch.ones(100))
    assert_same([call(program, x), call(program, x)], [x, x])


@pytest.mark.parametrize("model", [nn.Sequential(), nn.Identity(), nn.ReLU()])
def test_rows_19_and_20_nothing_to_quantize(model):
    program, ledger = captured(model.eval(), x := torch.ones(2))
    assert_same(call(program, x), x)
    assert codes(ledger) == ["FXQ228"]


def test_row_21_unused_submodules_are_listed():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU())
            self.only_weight = nn.Linear(2, 2)

        def forward(self, x):
            return F.linear(self.used(x), self.only_weight.weight)

    program, ledger = captured(Model().eval(), torch.ones(1, 2))
    assert [(row.code, row.module) for row in ledger.notices] == [("FXQ227", "spare.0")]
    assert "spare" not in dict(program.graph_module.named_modules())


def test_rows_22_and_23_arguments_and_outputs():
    model = shapes.Nested().eval()
    args, bias = ({"image": torch.randn(2, 3)}, None, torch.randn(3)), torch.randn(3)
    program, _ = trace(model, *args, bias=bias)
    assert_same(call(program, *args, bias=bias), model(*args, bias=bias))
    with pytest.raises(errors.UnsupportedModelError, match="FXQ212"):
        captured(model)


def test_row_24_hooks_are_listed():
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    model[0].register_forward_hook(lambda module, args, output: output * 100)
    _, ledger = captured(model, torch.ones(1, 2))
    assert codes(ledger) == ["FXQ224"] and "'0'" in ledger.notices[0].reason


def test_row_25_custom_function_stays_float_with_a_row():
    program, ledger = captured(model := shapes.Custom().eval(), x := torch.randn(2, 4))
    assert [row.op for row in ledger.layers] == ["Linear", "Doubled"]
    assert_same(call(program, x), model(x))


def test_row_27_compiled_and_parallel_models():
    inner = nn.Sequential(nn.Linear(2, 2)).eval()
    program, ledger = captured(nn.DataParallel(torch.compile(inner, backend="eager")).eval(), x := torch.ones(1, 2))
    assert codes(ledger) == ["FXQ229", "FXQ229"]
    assert_same(call(program, x), inner(x))


def test_row_28_reparametrized():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU()).eval()
    program, _ = captured(model, x := torch.randn(2, 4))
    assert_same(call(program, x), model(x), rtol=1e-6, atol=1e-6)
    assert type(program.graph_module.get_submodule("0")) is nn.Linear


def test_row_29_names():
    model = shapes.Named(["relu", "class", "graph", "größe", "x", "input", "_tensor_constant0"]).eval()
    program, ledger = captured(model, x := torch.randn(2, 4))
    assert_same(call(program, x), model(x))
    assert codes(ledger) == ["FXQ225", "FXQ225"]


def test_row_30_depth():
    model: nn.Module = nn.Linear(2, 2)
    for _ in range(400):
        model = nn.Sequential(model)
    with pytest.raises(errors.ResourceError, match="FXQ803"):
        captured(model.eval(), torch.ones(1, 2))


def test_row_31_memory():
    with pytest.raises(errors.MemoryBudgetError, match=r"FXQ801.*memory_limit is 1.0 MiB"):
        preflight.check(nn.Linear(1000, 1000).eval(), Ledger(), memory_limit=2**20)


def test_row_32_a_change_is_seen_by_the_fingerprint():
    model = nn.Linear(2, 2).eval()
    before = preflight.fingerprint(model)
    captured(model, torch.ones(1, 2))
    assert preflight.fingerprint(model) == before
    with torch.no_grad():
        model.weight.mul_(2)
    assert preflight.fingerprint(model) != before


def test_row_26_prepared_models():
    from torch.ao import quantization
    from torch.ao.quantization import quantize_fx

    model, x = nn.Sequential(nn.Linear(2, 2)).eval(), torch.ones(1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = quantization.get_default_qconfig_mapping("x86")
        prepared = quantize_fx.prepare_fx(copy.deepcopy(model), mapping, (x,))
    with pytest.raises(errors.AlreadyQuantizedError, match="FXQ230"):
        preflight.check(prepared, Ledger())
