"""The exact words of the errors and notices about models as they come."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import fxquant
from fxquant import arrival, preflight, torch_ao
from fxquant.arrival import Described
from fxquant.errors import FxQuantError
from fxquant.ledger import Ledger

with torch_ao.quiet():
    from torch.ao import quantization as ao


class Broken(nn.Module):
    def forward(self, weight):
        raise LookupError("no gains")


def net():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()


def broken():
    model = net()
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    model[0].parametrizations.weight[0] = Broken()
    return model


def sharded():
    model = net()
    kind = type("DTensor", (torch.Tensor,), {"__module__": "torch.distributed.tensor"})
    model[1].weight = nn.Parameter(model[1].weight.detach().as_subclass(kind))
    return model


ERRORS = {
    "strict": (
        lambda: preflight.check(net().half(), Ledger(), strict=True),
        "FXQ221 '0.weight' is torch.float16, and 4 parameters and buffers in all are not torch.float32\n"
        "  hint: compile a float32 copy, copy.deepcopy(model).float(), or leave strict off: then it is made for you",
    ),
    "complex": (
        lambda: arrival.planned([Described("head.weight", torch.complex64, "cpu")]),
        "FXQ221 parameter 'head.weight' is torch.complex64, which no cast makes torch.float32\n"
        "  hint: a complex model cannot be quantized",
    ),
    "meta": (
        lambda: arrival.planned([Described("a", torch.float32, "cpu"), Described("b.weight", torch.float32, "meta")]),
        "FXQ222 'b.weight' is on meta, where tensors have no values (1 on cpu, 1 on meta)\n"
        "  hint: load the weights first: a meta model has none",
    ),
    "broken": (
        lambda: preflight.fork(broken()),
        "FXQ237 '0.weight' cannot be computed: its Broken raises LookupError: no gains\n"
        "  hint: the model itself cannot run like this: repair the parametrization, or remove it",
    ),
    "shards": (
        lambda: preflight.check(sharded(), Ledger()),
        "FXQ213 parameter '1.weight' is a DTensor: this process holds a shard of it\n"
        "  hint: compile the plain nn.Module, with its full state gathered",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says(name):
    act, text = ERRORS[name]
    with pytest.raises(FxQuantError) as caught:
        act()
    assert str(caught.value) == text


def told(model):
    ledger = Ledger()
    preflight.check(model, ledger)
    return [(row.code, row.reason, row.hint) for row in ledger.notices]


def marked():
    model = net()
    model.qconfig, model[1].qconfig = ao.default_qconfig, None
    return model


def wrapped():
    model = net()
    model[0] = nn.DataParallel(model[0]).eval()
    return model


def pruned():
    model = net()
    nn.utils.prune.l1_unstructured(model[0], "weight", amount=0.5)
    nn.utils.parametrizations.weight_norm(model[1])
    return model.eval()


NOTICES = {
    "cast": (
        lambda: net().bfloat16(),
        (
            "FXQ221",
            "4 parameters and buffers were cast to float32 (4 bfloat16; first '0.weight'): outputs are float32 now, and "
            "inputs of bfloat16 are cast when they come in",
            "cast the output back where your code needs it: compiled(x).to(dtype)",
        ),
    ),
    "wrapped": (
        wrapped,
        (
            "FXQ229",
            "DataParallel was taken off '0': what is compiled is the Linear in it, under the name '0'",
            "",
        ),
    ),
    "pruned": (
        pruned,
        (
            "FXQ236",
            "2 tensors are computed from others and are plain in the compiled model, with the values that they have in "
            "eval mode: '0.weight' (pruned), '1.weight' (WeightNorm)",
            "",
        ),
    ),
    "marked": (
        marked,
        (
            "FXQ238",
            "2 modules carry a .qconfig (first: the model itself), which is not read: the mapping that was passed "
            "decides; '1' had None there, float in eager mode",
            "mapping.set_module_name('1', None)",
        ),
    ),
}


@pytest.mark.parametrize("name", NOTICES)
def test_a_notice_says(name):
    make, row = NOTICES[name]
    assert told(make()) == [row]


class Auto(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.head(x)


def test_the_notice_of_autocast_names_the_line():
    made = fxquant.compile(Auto().eval(), "int8-dynamic", example_inputs=(torch.ones(1, 4),), target="x86")
    [row] = [row for row in made.ledger.notices if row.code == "FXQ235"]
    line = Auto.forward.__code__.co_firstlineno + 1
    assert row.reason == (
        f"forward() uses autocast('cpu', bfloat16), line {line}: the compiled model computes in float32 what is not "
        "quantized there, and gives float32"
    )
