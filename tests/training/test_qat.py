"""compile(mode="qat"): a model that trains like any other, and what convert() makes of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.errors import UnsupportedModelError
from fxquant.passes.prune_magnitude import PruneMagnitude
from fxquant.recipe import parse
from fxquant.training.layers import QATLayer
from support.asserts import fingerprint
from support.training import labels, net, pictures, qat, train

with torch_ao.quiet():
    from torch.ao.quantization import QConfig, QConfigMapping, get_default_qat_qconfig_mapping
    from torch.ao.quantization.observer import MovingAverageMinMaxObserver, PerChannelMinMaxObserver
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

FOUR_BITS = parse('schema = 1\n[[rule]]\ntargets = ["*"]\nweight = { num_bits = 4 }\nactivation = {}\n')
POLICIES = {
    "int8": lambda: "int8",
    "int8-dynamic": lambda: "int8-dynamic",
    "int8-weight-only": lambda: "int8-weight-only",
    "torch's qat mapping": lambda: get_default_qat_qconfig_mapping("x86"),
    "4-bit weights": lambda: FOUR_BITS,
    "observers": lambda: QConfigMapping().set_global(
        QConfig(MovingAverageMinMaxObserver, PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
def test_any_policy_trains_and_converts_to_what_was_trained(name):
    model = net()
    before = fingerprint(model)
    with torch_ao.quiet():
        trained = qat(model, POLICIES[name]())
    losses = train(trained, 16)
    assert sum(losses[-4:]) < sum(losses[:4])
    compiled = trained.convert()
    assert isinstance(compiled, fxquant.CompiledModel) and compiled.stage is fxquant.Stage.LOWERED
    assert trained.agreement and all(row.steps <= 1.001 for row in trained.agreement)
    assert fxquant.sqnr_db(trained.eval()(pictures()), compiled(pictures())) > 25
    assert fingerprint(model) == before


def test_in_eval_it_computes_what_the_canonical_graph_does():
    trained = qat()
    train(trained)
    compiled = trained.convert()
    with torch.no_grad():
        assert torch.equal(trained.eval()(pictures(64, 1)), compiled.canonical(pictures(64, 1))[0])


@pytest.mark.parametrize("has_norm", [True, False])
def test_the_gradients_of_a_step_are_those_of_torch(has_norm):
    """Against prepare_qat_fx, with full-range activations: with 7 bits it clamps where no kernel does."""
    model = net() if has_norm else nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    if has_norm:
        model[3] = nn.Identity()
    with torch_ao.quiet():
        mapping = get_default_qat_qconfig_mapping("onednn")
        theirs = prepare_qat_fx(copy.deepcopy(model).train(), mapping, (pictures(),))
    ours = qat(model, mapping, calibration_data=None, example_inputs=pictures()).train()
    batch = pictures(64)
    with torch_ao.quiet():
        for side in (ours, theirs):
            nn.functional.cross_entropy(side(batch), labels(64)).backward()
    mine, yours = dict(ours.named_parameters()), dict(theirs.named_parameters())
    names = [name for name in yours if name.endswith("weight") and name in mine]
    assert len(names) == 2
    for name in names:
        apart = (mine[name].grad - yours[name].grad).norm() / yours[name].grad.norm()
        assert apart < 1e-3, (name, float(apart))


def test_batch_norms_are_live_in_training_and_folded_in_eval():
    trained = qat()
    layer = trained.get_submodule("0")
    assert isinstance(layer, QATLayer) and layer.norm_names == ("1",)
    before = layer.norms[0].running_mean.clone()
    trained.train()(pictures())
    moved = layer.norms[0].running_mean.clone()
    trained.eval()(pictures())
    assert not torch.equal(before, moved) and torch.equal(moved, layer.norms[0].running_mean)


def test_dropout_is_live_in_training_and_gone_after_convert():
    trained = qat().train()
    assert not torch.equal(trained(pictures()), trained(pictures()))
    train(trained)
    compiled = trained.convert()
    assert compiled.ledger["_3"].effective == "removed" and "Dropout" not in str(compiled.graph_module)


def test_its_state_resumes_training_where_it_was():
    first = qat(schedule=fxquant.QATSchedule(freeze_observers_after=2))
    train(first, 3)
    second = qat()
    second.load_state_dict(first.state_dict())
    assert second.steps == 3 and "ranges frozen" in repr(second)
    assert torch.equal(first.eval()(pictures()), second.eval()(pictures()))


def test_a_copy_trains_by_itself_and_moves():
    first = qat()
    second = copy.deepcopy(first)
    train(second)
    assert first.steps == 0 and second.steps == 3
    assert not torch.equal(first.eval()(pictures()), second.eval()(pictures()))
    assert second.to("cpu", torch.float64)(pictures().double()).dtype is torch.float64


def test_convert_may_be_called_again_and_training_goes_on():
    trained = qat()
    train(trained)
    first, again = trained.convert(), trained.convert()
    train(trained)
    third = trained.convert()
    found = [compiled(pictures()) for compiled in (first, again, third)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_convert_in_training_mode_is_that_of_eval_mode_and_leaves_the_mode():
    trained = qat()
    train(trained)
    in_training = trained.train().convert()
    assert trained.training and trained.get_submodule("3").training
    assert torch.equal(in_training(pictures()), trained.eval().convert()(pictures()))


def test_without_data_the_first_batches_of_training_give_the_ranges():
    trained = qat(calibration_data=None)
    train(trained, 4)
    assert fxquant.sqnr_db(trained.eval()(pictures()), trained.convert()(pictures())) > 25


def test_the_finished_model_tells_saves_measures_and_reports(tmp_path):
    model = net()
    trained = qat(model)
    train(trained)
    compiled = trained.convert()
    names = [record.name for record in compiled.history]
    tail = ["canonicalize-qdq", "place-precision", "fuse-projections", "lower-native"]
    assert names[-8:] == ["calibrate", "fake-quantize", "bake", "convert", *tail]
    loaded = fxquant.load(compiled.save(tmp_path / "net.fxq.safetensors"))
    assert torch.equal(loaded(pictures()), compiled(pictures()))
    assert fxquant.measure(compiled).output_sqnr_db > 20
    assert compiled.report(tmp_path / "net.html").stat().st_size > 10_000
    assert compiled.snapshot("prepared").nodes != compiled.snapshot("traced").nodes


def test_a_measurement_after_more_training_is_refused():
    model = net()
    trained = qat(model)
    train(trained)
    compiled = trained.convert()
    train(trained)
    with pytest.raises(fxquant.FxQuantError, match="trained on since") as told:
        fxquant.measure(compiled)
    assert told.value.code == "FXQ313"


def test_the_trained_float_weights_fit_the_float_model():
    model = net()
    trained = qat(model)
    train(trained)
    floats = net()
    floats.load_state_dict(trained.float_state_dict())
    assert not torch.equal(floats[0].weight, model[0].weight)
    assert fxquant.sqnr_db(floats(pictures()), trained.eval()(pictures())) > 20


def test_a_compressed_model_goes_on_with_its_history():
    trained = qat(fxquant.compress(net(), []))
    train(trained)
    assert [record.name for record in trained.convert().history][:2] == ["functionalize", "normalize-calls"]


def test_frozen_scales_are_those_of_the_finished_model():
    trained = qat()
    train(trained, 2)
    trained.freeze_observers()
    scale = trained.get_submodule("5").weight_fake_quant.calculate_qparams()[0]
    train(trained, 3, lr=0.3)
    held = trained.convert().canonical.get_submodule("5")
    assert torch.equal(held.weight_scale, scale)
    fresh = trained.get_submodule("5").weight.detach().abs().amax(1) / 127.5
    assert not torch.equal(held.weight_scale, fresh)


def test_the_world_stays_as_it_was():
    state, engine = torch.get_rng_state(), torch.backends.quantized.engine
    trained = qat()
    trained.convert() if trained.steps else trained.check()
    assert torch.equal(torch.get_rng_state(), state) and torch.backends.quantized.engine == engine


def test_the_graph_is_drawn_as_any_other():
    assert "FakeQuantizer" in str(fxquant.snapshot(qat().program).nodes)


@pytest.mark.parametrize("preset", ["float8", "int4-weight-only", "bfloat16", "float16"])
def test_formats_that_training_does_not_round_to_are_refused_by_name(preset):
    with pytest.raises(UnsupportedModelError) as told:
        fxquant.compile(net(), preset, mode="qat", calibration_data=pictures())
    assert told.value.code == "FXQ231"


@pytest.mark.parametrize("preset", ["int8", "int8-dynamic", "int8-weight-only"])
def test_an_encoder_that_is_written_out_agrees_part_by_part(preset):
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 4)).eval()
    data = torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(0))
    trained = fxquant.compile(model, preset, mode="qat", calibration_data=data)
    trained.check()
    assert len(trained.agreement) > 5 and all(row.is_met for row in trained.agreement)


def test_weights_that_a_pass_pruned_stay_exactly_zero_through_qat():
    small = fxquant.compress(net(), [PruneMagnitude(sparsity=0.5)])
    wanted = {name: mask.clone() for name, mask in small.masks.items()}
    trained = fxquant.compile(small, "int8", mode="qat", calibration_data=pictures())
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(trained.train()(pictures()), labels()).backward()
        optimizer.step()
    compiled = trained.convert()
    assert wanted
    for name, mask in wanted.items():
        owner, _, attribute = name.rpartition(".")
        assert bool((getattr(compiled.canonical.get_submodule(owner), attribute)[mask] == 0).all())


def test_a_fallback_chain_trains_by_its_first_links_and_keeps_no_batches():
    trained = fxquant.compile(net(), "hybrid", mode="qat", calibration_data=pictures())
    assert trained.program.kept_batches == ()
    (told,) = [notice.reason for notice in trained.ledger.notices if notice.code == "FXQ510"]
    assert told.startswith("what trains is the first link of each chain")
    assert not [notice for notice in qat(net()).ledger.notices if notice.code == "FXQ510"]
