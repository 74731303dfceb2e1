"""Pruned weights stay exactly zero while a model trains, is copied, saved, loaded, fine-tuned or fake-quantized."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.errors import UsageError
from fxquant.fork import fork
from fxquant.passes.prune_magnitude import PruneMagnitude
from fxquant.pipeline import Pass
from fxquant.tools.digits_models import MODELS
from fxquant.zeros import HeldZeros

with torch_ao.quiet():
    from torch.ao.quantization import QConfigMapping, get_default_qat_qconfig
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx

PICTURES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 10
HALF = PruneMagnitude(sparsity=0.5)


class Reviver(torch.optim.SGD):
    """Writes to every element, whatever its gradient is, as an orthogonalizing or noisy optimizer does."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(0.05)


OPTIMIZERS = {
    "sgd, momentum and decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.9),
}


def pruned(name="cnn", step=HALF):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name]().eval()
    return fxquant.compress(model, [step], example_inputs=PICTURES)


def train(model, optimizer, steps=3, teacher=None):
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(PICTURES)
        loss = nn.functional.cross_entropy(logits, LABELS)
        if teacher is not None:
            loss = loss + nn.functional.kl_div(logits.log_softmax(1), teacher(PICTURES).softmax(1).detach())
        loss.backward()
        optimizer.step()
    return model


def revived(model):
    """How many pruned weights are not exactly zero, read from the parameters as they are."""
    return sum(int((model.get_parameter(name)[mask] != 0).sum()) for name, mask in model.masks.items())


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_revives_nothing_and_moves_all_else(optimizer):
    model = pruned()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    train(model, OPTIMIZERS[optimizer](model.parameters()), teacher=pruned("cnn", PruneMagnitude(sparsity=0.1)))
    assert revived(model) == 0
    for name, mask in model.masks.items():
        moved = (model.get_parameter(name) != before[name])[~mask]
        assert float(moved.float().mean()) > 0.9, name


@pytest.mark.parametrize("name", ["lstm", "encoder"])
def test_recurrent_and_encoder_layers_keep_their_zeros_too(name):
    model = pruned(name)
    train(model, OPTIMIZERS["adamw"](model.parameters()))
    assert revived(model) == 0 and sum(int(mask.sum()) for mask in model.masks.values()) > 9000


def test_momentum_that_was_there_before_pruning_does_not_matter():
    model = pruned()
    optimizer = OPTIMIZERS["sgd, momentum and decay"](model.parameters())
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    train(model, optimizer)
    assert revived(model) > 0  # the optimizer writes it: between its step and the next call nobody can look
    model(PICTURES)
    assert revived(model) == 0


@pytest.mark.parametrize(
    "leaving",
    [
        lambda model: model,
        lambda model: copy.deepcopy(model),
        lambda model: fork(model),
        lambda model: fxquant.compress(model, []),
        lambda model: fxquant.compress(model, ["custom-modules", "fold-batchnorm"]),
    ],
    ids=["call", "deepcopy", "fork", "compress", "folded"],
)
def test_what_an_optimizer_writes_all_the_same_is_undone_before_it_is_used(leaving):
    model = pruned()
    train(model, Reviver(model.parameters(), lr=0.1))
    assert revived(model) > 0
    found = leaving(model)
    if found is model:
        model(PICTURES)
    assert revived(found) == 0 and len(found.masks) == len(model.masks)


def test_a_saved_state_has_the_zeros():
    model = pruned()
    train(model, Reviver(model.parameters(), lr=0.1))
    assert revived(model) > 0
    state = nn.Sequential(model).state_dict()
    for name, mask in model.masks.items():
        assert int((state[f"0.{name}"][mask] != 0).sum()) == 0


def test_a_compiled_model_has_them_whatever_the_last_step_wrote():
    model = pruned("mlp")
    train(model, Reviver(model.parameters(), lr=0.1))
    compiled = fxquant.compile(model, "int8-dynamic")
    codes = compiled.state_dict()
    assert all(int((codes[name][mask] != 0).sum()) == 0 for name, mask in model.masks.items())


def test_two_calls_before_one_backward_are_fine():
    model = pruned("mlp").train()
    (model(PICTURES).sum() + model(PICTURES.flip(0)).sum()).backward()
    for name, mask in model.masks.items():
        gradient = model.get_parameter(name).grad
        assert int((gradient[mask] != 0).sum()) == 0 and int((gradient[~mask] != 0).sum()) > 0


def test_a_copy_trains_by_itself():
    model = pruned("mlp")
    copied = copy.deepcopy(train(model, OPTIMIZERS["adam"](model.parameters())))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    train(copied, OPTIMIZERS["adam"](copied.parameters()))
    assert revived(copied) == 0
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_the_names_of_the_state_are_those_of_the_model():
    assert pruned().state_dict().keys() == MODELS["cnn"]().state_dict().keys()


def test_a_frozen_weight_is_held_without_a_gradient():
    model = pruned("mlp")
    model.requires_grad_(False)
    model(PICTURES)
    assert revived(model) == 0 and model.get_parameter("head.weight").grad is None


def test_masks_follow_a_model_to_another_dtype():
    model = pruned("mlp").double()
    model.get_parameter("head.weight").data.add_(1)
    model(PICTURES.double())
    assert revived(model) == 0


# States


def test_a_state_comes_back_with_its_own_zeros():
    trained = pruned("mlp")
    train(trained, OPTIMIZERS["adamw"](trained.parameters()))
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = pruned("mlp", PruneMagnitude(pattern="2:4"))  # zeros elsewhere
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(fresh.masks[name], trained.masks[name]) for name in trained.masks)
    train(fresh, OPTIMIZERS["adamw"](fresh.parameters()))
    assert revived(fresh) == 0
    assert all(torch.equal(fresh.get_parameter(name) == 0, mask) for name, mask in trained.masks.items())


@pytest.mark.parametrize("wrap", [lambda model: model, nn.Sequential], ids=["alone", "inside another module"])
def test_a_state_that_would_revive_pruned_weights_is_refused_and_nothing_is_loaded(wrap):
    model = pruned("mlp")
    before = copy.deepcopy(model.state_dict())
    dense = {name: torch.ones_like(value) for name, value in wrap(model).state_dict().items()}
    with pytest.raises(UsageError) as caught:
        wrap(model).load_state_dict(dense)
    assert str(caught.value) == (
        "FXQ135 the state to load has 0 zeros in 'body.0.weight', of which 4,096 weights were pruned: it would revive "
        "4,096 of them\n"
        "  hint: load it into the float model and prune that, or load a state of the pruned model"
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_state_of_another_shape_is_torchs_affair():
    model = pruned("mlp")
    state = {**model.state_dict(), "head.weight": torch.zeros(3, 3)}
    with pytest.raises(RuntimeError, match="size mismatch for head"):
        model.load_state_dict(state)


# Through passes


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(torch.relu(self.fc(x)))


def test_copies_of_a_shared_layer_share_its_zeros():
    x = torch.rand(4, 8)
    model = fxquant.compress(Shared().eval(), [HALF, "unshare"], example_inputs=x).train()
    second = next(name for name, _ in model.named_modules() if name.startswith("fc_"))
    assert model.get_parameter("fc.weight") is model.get_parameter(f"{second}.weight")
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    model(x).sum().backward()
    optimizer.step()
    assert revived(model) == 0 and int(model.masks["fc.weight"].sum()) == 32


@dataclass(frozen=True)
class Add(Pass):
    """Somebody's pass that writes to every weight, as one that trains the bare graph does."""

    name: ClassVar[str] = "add"

    def run(self, program, ledger):
        for parameter in program.graph_module.parameters():
            parameter.data.add_(0.5)
        return program


def test_a_pass_that_writes_to_pruned_weights_has_no_say_in_them_and_a_notice_tells():
    model = fxquant.compress(pruned("mlp"), [Add()])
    assert revived(model) == 0 and [int(mask.sum()) for mask in model.masks.values()] == [4096, 8192, 640]
    (row,) = [row for row in model.ledger.notices if "'add'" in row.reason]
    assert (row.code, row.reason) == ("FXQ412", "pass 'add' wrote to 12,928 pruned weights: they are zero again")


def test_attention_that_is_written_out_keeps_the_zeros_under_its_new_names():
    whole = pruned("encoder")
    written = fxquant.compress(whole, ["custom-modules"])
    assert "encoder.layers.0.self_attn.in_proj_weight" in whole.masks
    parts = [written.masks[f"encoder.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(parts), whole.masks["encoder.layers.0.self_attn.in_proj_weight"])
    train(written, OPTIMIZERS["adamw"](written.parameters()))
    assert revived(written) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fake_quantized_layers_hold_the_zeros_by_the_same_names():
    """As quantization-aware training does it: conv, batch norm and ReLU are one module with the float weight within."""
    model = pruned()
    with torch_ao.quiet():
        mapping = QConfigMapping().set_global(get_default_qat_qconfig("x86"))
        prepared = prepare_qat_fx(copy.deepcopy(model.graph_module).train(), mapping, (PICTURES,))
    zeros = HeldZeros(prepared, model.program.pruned)
    assert zeros.masks.keys() == model.masks.keys()
    optimizer = Reviver(prepared.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        zeros.hold(prepared)
        optimizer.zero_grad()
        nn.functional.cross_entropy(prepared(PICTURES)[0], LABELS).backward()
        optimizer.step()
    zeros.hold(prepared)
    with torch_ao.quiet():
        converted = convert_fx(copy.deepcopy(prepared).eval())
    for name, mask in model.masks.items():
        module = converted.get_submodule(name.removesuffix(".weight"))
        weight = module.weight().dequantize()
        assert int((weight[mask] != 0).sum()) == 0 and int((weight != 0).sum()) > 0, name
