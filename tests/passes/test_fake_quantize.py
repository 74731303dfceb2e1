"""fake-quantize and bake: what calibration would watch trains with rounding, and comes out as plain layers again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.errors import ContractError, PassError
from fxquant.passes.bake import Bake
from fxquant.passes.fake_quantize import FakeQuantize
from fxquant.passes.fold_batchnorm import fold
from fxquant.passes.insert_observers import InsertObservers
from fxquant.pipeline import Pipeline
from fxquant.recipe import parse
from fxquant.training.fake_quantizer import FakeQuantizer
from fxquant.training.layers import QATEmbedding, QATLayer
from fxquant.training.recurrent_layer import QATRecurrent
from support.training import net, pictures, qat, train


def kinds(model):
    nodes = (node for node in model.graph_module.graph.nodes if node.op == "call_module")
    return [type(model.program.module_of(node)).__name__ for node in nodes]


def test_it_fires_on_layers_with_their_norms_and_on_observers():
    model = qat()
    assert kinds(model) == [
        *("FakeQuantizer", "QATLayer", "FakeQuantizer", "Dropout", "Flatten", "QATLayer", "FakeQuantizer"),
    ]
    layer = model.get_submodule("0")
    assert layer.has_relu and len(layer.norms) == 1 and layer.weight_fake_quant.grid.axis == 0


def test_the_range_of_calibration_is_where_training_starts():
    model = qat()
    first = model.get_submodule("activation_post_process_0")
    assert float(first.bounds[0]) <= float(pictures().min()) + 0.02
    assert float(first.bounds[1]) == pytest.approx(float(pictures().max()), abs=0.02)
    assert not qat(calibration_data=None).get_submodule("activation_post_process_0").has_range


def test_a_convolution_whose_norm_was_folded_but_that_stays_float_has_its_norm_back():
    text = 'schema = 1\nignore = ["0"]\n[[rule]]\ntargets = ["Linear"]\nscheme = "int8"\n'
    model = qat(policy=parse(text))
    assert isinstance(model.get_submodule("1"), nn.BatchNorm2d) and type(model.get_submodule("0")) is nn.Conv2d


def test_what_is_dynamic_recurrent_and_a_table_has_a_form_of_its_own():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.rnn, self.head = nn.Embedding(30, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, tokens):
            steps, (_, state) = self.rnn(self.table(tokens))
            return self.head(steps[:, -1] + state[0])

    tokens = torch.randint(0, 30, (8, 5), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = Reader().eval()
    model = fxquant.compile(reader, "int8-dynamic", mode="qat", calibration_data=[tokens], target="x86")
    assert isinstance(model.get_submodule("table"), QATEmbedding)
    assert isinstance(model.get_submodule("rnn"), QATRecurrent)
    assert model.get_submodule("head").input_fake_quant is not None
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.train()(tokens).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    unused = set(before) - {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert unused == set()
    compiled = model.convert()
    assert fxquant.sqnr_db(model.eval()(tokens), compiled(tokens)) > 25
    reader.load_state_dict(model.float_state_dict())


def test_the_gradient_through_a_recurrent_layer_is_nearly_that_of_the_float_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain, x = nn.Sequential(nn.GRU(8, 8, batch_first=True)).eval(), torch.randn(4, 6, 8)
    model = fxquant.compile(plain, "int8-dynamic", mode="qat", calibration_data=[x], target="x86").train()
    for side in (model, plain):
        side(x)[0].square().sum().backward()
    ours, theirs = model.get_submodule("0").weight_hh_l0.grad, plain[0].weight_hh_l0.grad
    assert (ours - theirs).norm() / theirs.norm() < 0.05


def test_float16_layers_train_in_float_and_say_so():
    text = """schema = 1
[[rule]]
targets = ["5"]
weight = { dtype = "float16" }
activation = { dtype = "float32" }
[[rule]]
targets = ["0"]
weight = {}
"""
    model = qat(policy=parse(text))
    train(model)
    compiled = model.convert()
    assert compiled.ledger["_5"].effective == "float16 weights" and compiled.ledger["_5"].code == "FXQ232"


def test_a_module_of_ones_own_trains_as_its_handler_observes_it():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(10))

        def forward(self, x):
            return x * self.gain

    handler = fxquant.CustomModule(Gate, observe=lambda gate, qconfig: gate, quantize=lambda gate: gate)
    model = qat(nn.Sequential(*net(), Gate()).eval(), custom_modules=[handler])
    train(model)
    assert bool((model.get_submodule("6").gain != 1).all())
    assert model.convert().ledger["_6"].effective == "custom (Gate)"


def test_a_shared_layer_stays_tied_in_training():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return self.fc(torch.relu(self.fc(x)))

    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    model = fxquant.compile(Twice().eval(), "int8", mode="qat", calibration_data=[x])
    assert len(list(model.parameters())) == 2
    model.train()(x).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model.get_submodule("fc").weight is model.get_submodule("fc_2").weight
    assert model.convert().stage is fxquant.Stage.LOWERED


def test_a_run_of_norms_and_a_norm_without_gain_train():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4, affine=False),
            nn.Flatten(),
            nn.Linear(144, 10),
        )
        plain = nn.Sequential(*layers).train()
        plain(torch.rand(32, 1, 8, 8))
    model = qat(plain.eval())
    assert len(model.get_submodule("0").norms) == 2
    train(model)
    plain.load_state_dict(model.float_state_dict())
    assert fxquant.sqnr_db(plain(pictures()), model.eval()(pictures())) > 20
    model.convert()


def test_a_gain_of_zero_gives_no_nan():
    plain = net()
    with torch.no_grad():
        plain[1].weight[2] = 0.0
    model = qat(plain)
    losses = train(model, 4)
    assert all(loss == loss for loss in losses) and model.convert().stage is fxquant.Stage.LOWERED


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_folds_and_trains(groups):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.ConvTranspose2d(2, 4, 3, groups=groups), nn.BatchNorm2d(4)).train()
        plain(torch.randn(8, 2, 6, 6))
        x = torch.randn(8, 2, 6, 6)
    model = fxquant.compile(plain.eval(), "int8", mode="qat", calibration_data=[x], target="x86")
    model.freeze_observers()
    layer = model.get_submodule("0")
    with torch.no_grad():
        layer.norms[0].momentum = 0.0
        assert fxquant.sqnr_db(plain(x), model.eval()(x)) > 25
    model.train()(x).square().sum().backward()
    assert layer.weight.grad is not None and bool(torch.isfinite(layer.weight.grad).all())


def test_bake_folds_as_the_pass_does():
    model = qat()
    train(model)
    layer = model.get_submodule("0").eval()
    plain = nn.Conv2d(1, 8, 3)
    plain.weight, plain.bias = layer.weight, layer.bias
    wanted = fold(plain, layer.norms[0])
    weight, bias = layer.folded()
    torch.testing.assert_close((weight, bias), (wanted.weight, wanted.bias), rtol=1e-5, atol=1e-6)


def test_the_order_of_the_passes_is_checked():
    with pytest.raises(ContractError, match="FXQ401"):
        Pipeline((Bake(), FakeQuantize())).check(fxquant.Stage.CALIBRATED)
    assert (
        Pipeline((InsertObservers(), FakeQuantize(), Bake())).check(fxquant.Stage.PLANNED) is fxquant.Stage.CALIBRATED
    )


def test_what_is_left_over_is_a_broken_promise():
    model = qat()
    with pytest.raises(PassError, match="FXQ403 '0' is still a layer in training"):
        Bake().verify(model.program)
    with torch_ao.quiet():
        from torch.ao.quantization import MinMaxObserver
    model.graph_module.set_submodule("activation_post_process_0", MinMaxObserver())
    with pytest.raises(PassError, match="FXQ403 'activation_post_process_0' is an observer still"):
        FakeQuantize().verify(model.program)


def test_the_modules_tell_what_they_are():
    model = qat()
    assert "Conv2d(1, 8" in repr(model.get_submodule("0")) and "+ ReLU" in repr(model.get_submodule("0"))
    model.freeze_observers()
    model.freeze_batchnorm()
    assert "batch norm frozen" in repr(model.get_submodule("0"))
    assert any(isinstance(m, FakeQuantizer) and "frozen" in repr(m) for m in model.modules())
    assert isinstance(model.get_submodule("5"), QATLayer)
