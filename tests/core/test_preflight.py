"""Checks before tracing: what each refuses, with its code, the culprit's name and the caller's model untouched."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fxquant
from fxquant import errors, preflight
from fxquant.ledger import Ledger
from support.asserts import assert_same, untouched


class Net(nn.Module):
    """Conv, BN, Linear and a mask with infinities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(8, 3)
        self.register_buffer("mask", torch.tensor([float("-inf"), 0.0]))

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).flatten(1))


def net() -> Net:
    return Net().eval()


def refused(model: object, kind: type[errors.FxQuantError], code: str, culprit: str, **options: object) -> None:
    with untouched(model if isinstance(model, nn.Module) else None), pytest.raises(kind) as caught:
        preflight.check(model, Ledger(), **options)
    assert caught.value.code == code and culprit in str(caught.value) and caught.value.hint


def told(model: nn.Module) -> list[tuple[str, str]]:
    ledger = Ledger()
    with untouched(model):
        preflight.check(model, ledger)
    return [(row.code, row.reason) for row in ledger.notices]


def test_a_good_model_passes_without_a_word():
    assert told(net()) == []


@pytest.mark.parametrize(
    ("model", "culprit"), [(torch.relu, "builtin"), (Net, "Net(...)"), ({"a": 1}, "state dict"), (None, "NoneType")]
)
def test_not_a_module(model, culprit):
    refused(model, errors.UnsupportedModelError, "FXQ201", culprit)


def test_training_mode_is_a_notice_or_strictly_an_error():
    model = Net()
    refused(model, errors.TrainingModeError, "FXQ220", "Net", strict=True)
    assert [code for code, _ in told(model)] == ["FXQ220"]
    assert model.training and not preflight.fork(model).training
    model.eval().bn.train()
    refused(model, errors.TrainingModeError, "FXQ220", "'bn'", strict=True)


def second_weight_as(dtype):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).eval()
    model[1].weight = nn.Parameter(model[1].weight.to(dtype), requires_grad=dtype.itemsize > 1)
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_a_notice_or_strictly_an_error(dtype):
    refused(second_weight_as(dtype), errors.DtypeError, "FXQ221", "'1.weight'", strict=True)
    [(code, reason)] = told(second_weight_as(dtype))
    assert code == "FXQ221" and "'1.weight'" in reason and str(dtype).removeprefix("torch.") in reason


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_dtypes_that_no_cast_makes_float32(dtype):
    refused(second_weight_as(dtype), errors.DtypeError, "FXQ221", "'1.weight'")


def test_devices():
    refused(
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")).eval(), errors.DeviceError, "FXQ222", "1.weight"
    )
    refused(nn.Linear(2, 2, device="meta").eval(), errors.DeviceError, "FXQ222", "2 on meta")


@pytest.mark.parametrize("name", ["conv.weight", "conv.bias", "fc.weight", "bn.running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(name, value):
    model = net()
    model.state_dict()[name].view(-1)[1] = value
    refused(model, errors.NonFiniteError, "FXQ302", f"'{name}' holds 1 of")


def test_infinities_that_cancel_are_found():
    model = net()
    model.state_dict()["fc.bias"][:2] = torch.tensor([float("inf"), float("-inf")])
    refused(model, errors.NonFiniteError, "FXQ302", "'fc.bias' holds 2 of 3")


def test_lazy_parameters():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LazyLinear(3)).eval()
    with pytest.raises(errors.UnsupportedModelError, match=r"FXQ223 parameter '0.weight'"):
        preflight.check(model, Ledger())


def test_already_quantized():
    from torch.ao import quantization
    from torch.ao.quantization import quantize_fx

    x, model = torch.randn(1, 1, 2, 2), net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = quantization.get_default_qconfig_mapping("x86")
        prepared = quantize_fx.prepare_fx(model, mapping, (x,))
        prepared(x)
        converted = quantize_fx.convert_fx(quantize_fx.prepare_fx(model, mapping, (x,)))
        dynamic = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})
        for made in (prepared, converted, dynamic):
            with pytest.raises(errors.AlreadyQuantizedError, match="FXQ230"):
                preflight.check(made, Ledger())


def test_wrappers_are_taken_off():
    inner = net()
    for wrapper in (torch.compile(inner, backend="eager"), nn.DataParallel(inner)):
        ledger = Ledger()
        assert preflight.check(wrapper.eval(), ledger) is inner
        assert [row.code for row in ledger.notices] == ["FXQ229"] and "Net" in ledger.notices[0].reason


def test_scripted_models():
    with pytest.warns(DeprecationWarning):
        model = torch.jit.script(nn.Linear(2, 2)).eval()
    with pytest.raises(errors.UnsupportedModelError, match="FXQ213"):
        preflight.check(model, Ledger())


def test_memory_is_estimated_first():
    refused(net(), errors.MemoryBudgetError, "FXQ801", "memory_limit is 0.0 MiB", memory_limit=100)
    preflight.check(net(), Ledger(), memory_limit=2**20)


def test_hooks_are_listed_and_left_out_of_the_copy():
    model, seen = net(), []
    model.conv.register_forward_hook(lambda *values: seen.append(values))
    assert [(code, "'conv'" in reason) for code, reason in told(model)] == [("FXQ224", True)]
    preflight.fork(model)(torch.randn(1, 1, 2, 2))
    assert seen == []


def test_an_outlier_channel_is_told():
    model = net()
    model.fc.weight.data[2, 0] = 1e4
    assert [(code, "channel 2 of 'fc.weight'" in reason) for code, reason in told(model)] == [("FXQ311", True)]


def test_no_parameters_is_fine():
    assert [code for code, _ in told(nn.ReLU().eval())] == ["FXQ228"]
    assert [code for code, _ in told(nn.Sequential().eval())] == ["FXQ228"]


def _weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


class _Squared(nn.Module):
    def forward(self, weight):
        return weight**2


REPARAMETRIZED = {
    "old weight_norm": _weight_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "pruned twice": lambda layer: prune.random_unstructured(
        prune.l1_unstructured(layer, "weight", amount=0.2), "weight", amount=0.2
    ),
    "own": lambda layer: _registered(layer),
}


def _registered(layer):
    parametrize.register_parametrization(layer, "weight", _Squared())
    return layer


@pytest.mark.parametrize("name", REPARAMETRIZED)
def test_reparametrized_weights_are_plain_in_the_copy(name):
    model = nn.Sequential(REPARAMETRIZED[name](nn.Linear(4, 4))).eval()
    x = torch.randn(3, 4)
    expected = model(x)
    with untouched(model):
        copied = preflight.fork(model)
    assert type(copied[0]) is nn.Linear and isinstance(copied[0].weight, nn.Parameter)
    assert [key for key, _ in copied.named_parameters()] in (["0.weight", "0.bias"], ["0.bias", "0.weight"])
    assert not copied[0]._forward_pre_hooks
    assert_same(copied(x), expected, rtol=1e-6, atol=1e-6)
    assert_same(model(x), expected)


def test_fork_shares_nothing_and_keeps_ties():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).train()
    model[1].weight = model[0].weight
    with untouched(model):
        copied = preflight.fork(model)
        assert copied[0].weight is copied[1].weight is not model[0].weight
    assert not any(module.training for module in copied.modules())


def _opened():
    return open(__file__)  # an open handle is the very thing that cannot be copied


@pytest.mark.parametrize("make", [threading.Lock, lambda: (n for n in range(3)), _opened])
def test_what_cannot_be_copied_is_named(make):
    model = net()
    model.conv.extra = make()
    with untouched(model), pytest.raises(errors.UnsupportedModelError) as caught:
        preflight.fork(model)
    assert caught.value.code == "FXQ202" and "'conv.extra'" in str(caught.value) and caught.value.module == "conv"
    if hasattr(model.conv.extra, "close"):
        model.conv.extra.close()


def test_fork_too_deep_is_typed():
    model: nn.Module = nn.Linear(2, 2)
    for _ in range(400):
        model = nn.Sequential(model)
    with pytest.raises(errors.ResourceError, match="FXQ803"):
        preflight.fork(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.fc.weight.add_(1),
        lambda model: model.train(),
        lambda model: setattr(model, "fc", nn.Linear(8, 3)),
        lambda model: setattr(model.fc, "bias", None),
        lambda model: model.mask.fill_(0),
        lambda model: model.conv.register_forward_hook(print),
    ],
)
def test_fingerprint_sees_a_change(change):
    model = net()
    before = preflight.fingerprint(model)
    assert preflight.fingerprint(model) == before
    with torch.no_grad():
        change(model)
    assert preflight.fingerprint(model) != before


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x):
        return self.inner(x)


def test_a_model_that_says_that_it_is_quantized_is_believed():
    """As bitsandbytes and the Transformers integrations mark theirs."""
    for name, value in (("is_quantized", True), ("quantization_method", "bitsandbytes")):
        model = Packed().eval()
        setattr(model.inner, name, value)
        refused(model, errors.AlreadyQuantizedError, "FXQ230", "'inner'")


def test_a_quantized_tensor_in_a_float_class_is_found():
    model = Packed().eval()
    model.register_buffer("codes", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8))
    with pytest.raises(errors.AlreadyQuantizedError) as caught:
        preflight.check(model, Ledger())
    assert "'codes' is a torch.quint8 tensor" in str(caught.value)


def test_a_compiled_model_is_not_compiled_again():
    compiled = fxquant.compile(Packed().eval(), "int8-weight-only", example_inputs=(torch.ones(1, 2),), target="x86")
    with pytest.raises(errors.AlreadyQuantizedError, match="it was compiled by fxquant"):
        preflight.check(compiled, Ledger())


def test_a_wrapper_that_cannot_be_taken_off_is_refused():
    """FSDP holds shards: what is in it is not the model."""
    kind = type(
        "FullyShardedDataParallel", (Packed,), {"__module__": "torch.distributed.fsdp.fully_sharded_data_parallel"}
    )
    refused(kind().eval(), errors.UnsupportedModelError, "FXQ213", "shards or wraps the model")


def test_what_only_fails_as_a_whole_is_named_by_its_class():
    class Refuses(nn.Module):
        def __deepcopy__(self, memo):
            raise RuntimeError("one of a kind")

    with pytest.raises(errors.UnsupportedModelError) as caught:
        preflight.fork(Refuses())
    assert "Refuses cannot be copied, because of Refuses: one of a kind" in str(caught.value)
    assert caught.value.hint == "make it deep-copyable"


def test_a_lack_of_memory_is_no_fault_of_an_attribute():
    class Huge:
        def __deepcopy__(self, memo):
            raise MemoryError

    model = net()
    model.extra = Huge()
    with pytest.raises(MemoryError):
        preflight.fork(model)
