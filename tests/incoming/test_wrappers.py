"""Models that come wrapped: compiled, data parallel, nested, with a forward of their own. And what is refused."""

from __future__ import annotations

import functools
import os
import types

import pytest
import torch
import torch.distributed as dist
from torch import nn

import fxquant
from fxquant import errors, preflight
from fxquant.ledger import Ledger
from fxquant.numerics import sqnr_db
from support.asserts import untouched


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x))


def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def rows():
    return torch.randn(32, 8, generator=torch.Generator().manual_seed(1))


def built(model, policy="int8", **options):
    with untouched(model):
        return fxquant.compile(model, policy, **{"calibration_data": rows(), "target": "x86", **options})


def compiled_by_torch(module):
    return torch.compile(module, backend="eager")


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WHOLE = {
    "compiled": compiled_by_torch,
    "data parallel": nn.DataParallel,
    "compiled data parallel": lambda model: compiled_by_torch(nn.DataParallel(model)),
    "twice": lambda model: nn.DataParallel(nn.DataParallel(model)),
}


@pytest.mark.parametrize("way", WHOLE)
def test_a_wrapped_model_is_compiled_as_the_plain_one(way):
    made = built(WHOLE[way](seeded()).eval())
    assert made(rows()).equal(built(seeded())(rows()))
    assert "FXQ229" in [row.code for row in made.ledger.notices]


@pytest.mark.parametrize("way", WHOLE)
def test_a_wrapped_submodule_stands_under_its_plain_name(way):
    model = seeded()
    model.body = WHOLE[way](model.body).eval()
    made = built(model)
    assert made(rows()).equal(built(seeded())(rows()))
    told = [row for row in made.ledger.notices if row.code == "FXQ229"]
    assert told and all("'body" in row.reason for row in told)
    assert [row.module for row in made.ledger.layers] == ["body.0", "body.1", "head"]


@pytest.mark.usefixtures("one_process")
def test_distributed_data_parallel_as_a_whole_twice_and_inside():
    parallel = nn.parallel.DistributedDataParallel
    expected = built(seeded())(rows())
    for wrapped in (parallel(seeded()), parallel(compiled_by_torch(seeded()))):
        assert built(wrapped.eval())(rows()).equal(expected)
    double = parallel(parallel(seeded())).eval()
    made = built(double)
    assert made(rows()).equal(expected)
    assert [row.code for row in made.ledger.notices].count("FXQ229") >= 1
    model = seeded()
    model.body = parallel(model.body)
    assert built(model.eval())(rows()).equal(expected), "a process group does not copy"
    assert isinstance(model.body, parallel)


def test_one_module_wrapped_at_one_place_and_plain_at_another_stays_one():
    model = seeded()
    model.again = nn.DataParallel(model.body)
    copied = preflight.fork(model)
    assert copied.again is copied.body and type(copied.body) is nn.Sequential


def test_compiled_in_place():
    model = seeded()
    model.compile(backend="eager")
    model.body.compile(backend="eager")
    assert built(model)(rows()).equal(built(seeded())(rows()))


class CallsCompiled(Net):
    def __init__(self):
        super().__init__()
        self.fast = torch.compile(torch.tanh, backend="eager")

    def forward(self, x):
        return self.fast(super().forward(x))


def test_a_compiled_function_in_forward_is_success_or_told():
    try:
        made = built(CallsCompiled().eval())
    except errors.FxQuantError as error:
        assert error.code in ("FXQ202", "FXQ210")
    else:
        assert made(rows()).shape == (32, 4)


def test_compress_takes_wrapped_models_too():
    model = nn.DataParallel(seeded()).eval()
    trainable = fxquant.compress(model, [])
    assert torch.equal(trainable(rows()), model(rows()))


# What is refused ------------------------------------------------------------------------------------------------------


def test_scripted_parts_stay_and_a_scripted_whole_is_refused():
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(seeded().body)
    with pytest.raises(errors.UnsupportedModelError, match="FXQ213"):
        fxquant.compile(scripted.eval(), "int8-dynamic")
    model = seeded()
    model.body = scripted.eval()
    made = fxquant.compile(model, "int8-dynamic", example_inputs=(rows(),), target="x86")
    assert made(rows()).shape == (32, 4)


def sharded(model):
    """As FSDP2 leaves a model: no wrapper, parameters of a class of torch.distributed."""
    kind = type("DTensor", (torch.Tensor,), {"__module__": "torch.distributed.tensor"})
    model.head.weight = nn.Parameter(model.head.weight.detach().as_subclass(kind))
    return model


def test_shards_are_refused_by_the_parameters_name():
    with pytest.raises(errors.UnsupportedModelError) as caught:
        preflight.check(sharded(seeded()), Ledger())
    assert caught.value.code == "FXQ213" and "'head.weight' is a DTensor" in caught.value.message


def test_fsdp_inside_is_refused():
    model = seeded()
    home = {"__module__": "torch.distributed.fsdp.fully_sharded_data_parallel"}
    model.body = type("FullyShardedDataParallel", (Net,), home)()
    with pytest.raises(errors.UnsupportedModelError, match="FXQ213"):
        preflight.check(model, Ledger())


class Held(nn.Module):
    """A wrapper of one's own that does not copy."""

    def __init__(self, module):
        super().__init__()
        self.module, self.handle = module, os.stat(".")
        self.lock = __import__("threading").Lock()

    def forward(self, x):
        return self.module(x)


def test_a_wrapper_of_ones_own_that_does_not_copy_is_named():
    with pytest.raises(errors.UnsupportedModelError) as caught:
        built(Held(seeded()).eval())
    assert caught.value.code == "FXQ202" and "'lock'" in caught.value.message


# A forward of its own, as training libraries leave it -----------------------------------------------------------------


def hooked(module, *args, **kwargs):
    return module._old_forward(*args, **kwargs) * 2


def with_partial(model):
    model._old_forward = model.forward
    model.forward = functools.update_wrapper(functools.partial(hooked, model), model.forward)
    return model


def with_method(model):
    model._old_forward = model.forward
    model.forward = types.MethodType(hooked, model)
    return model


def with_autocast(model):
    forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward.__func__)
    model.forward = types.MethodType(lambda self, x: forward(self, x).float() * 2, model)
    return model


def with_closure(model):
    old = model.forward
    model.forward = lambda x: old(x) * 2
    return model


REPLACED = {"partial": with_partial, "method": with_method, "autocast": with_autocast, "closure": with_closure}


@pytest.mark.parametrize("policy", ["int8", "int8-dynamic", "int8-weight-only"])
@pytest.mark.parametrize("way", REPLACED)
def test_a_replaced_forward_is_followed(way, policy):
    model = REPLACED[way](seeded())
    made = built(model, policy)
    with torch.no_grad():
        assert sqnr_db(model(rows()), made(rows())) > 25
        assert sqnr_db(seeded()(rows()) * 2, made(rows())) > 25
    assert not {"FXQ226", "FXQ227"} & {row.code for row in made.ledger.notices}, "its layers are its own"


def test_a_replaced_forward_of_a_submodule_is_followed():
    model = seeded()
    with_partial(model.head)
    made = built(model)
    with torch.no_grad():
        assert sqnr_db(model(rows()), made(rows())) > 25
