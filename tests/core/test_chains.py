"""Fallback chains: each site gets the first link that runs, its row tells the way there, and bad chains are FXQ125."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxquant
from fxquant import calibration, recipe, rounds
from fxquant.chains import LINKS, USUAL
from fxquant.errors import FxQuantError, LoweringError, QConfigError
from fxquant.linking import chained
from fxquant.numerics import sqnr_db
from fxquant.passes import _packing, insert_observers
from fxquant.passes.select_qconfigs import is_declined
from fxquant.plan import Decision, Mode
from fxquant.program import Stage
from fxquant.rounds import _fallen
from fxquant.tools.digits_models import MODELS
from support.asserts import untouched
from support.compiling import ENGINES
from support.small import AGREE, BETTER

STATIC_FIRST = ("int8", "int8-dynamic", "int8-weight-only", "float")


def batches(*shape, count=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def modes(compiled):
    return {decision.module_name: str(decision.mode) for decision in compiled.plan}


class Shapes(nn.Module):
    """A layer for each way to fall: in the plan, by its kind, and once it is lowered."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")  # no engine pads so
        self.rnn, self.gru = nn.LSTM(8, 8, batch_first=True, proj_size=4), nn.GRU(4, 8, batch_first=True)
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.conv(x).mean((2,))
        y, _ = self.gru(self.rnn(y)[0])
        return self.head(F.gelu(self.fc(y)))


SHAPES = batches(8, 4, 8, 8)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("policy", ["hybrid", STATIC_FIRST, list(STATIC_FIRST)])
def test_each_site_gets_the_first_link_that_runs(policy):
    model = seeded(Shapes)
    with untouched(model):
        compiled = fxquant.compile(model, policy, calibration_data=SHAPES, target="x86")
    assert modes(compiled) | {"": ""} == {
        "": "", "conv": "weight-only", "rnn": "float32", "gru": "dynamic", "fc": "static", "head": "static",
    }  # fmt: skip
    rows = {row.module: row for row in compiled.ledger.layers if row.module}
    assert rows["conv"].effective == "int8 weights" and rows["conv"].code == "FXQ510"
    assert rows["conv"].reason == (
        "int8: x86 has no int8 kernel for Conv2d here; int8-dynamic: asks nothing for 'Conv2d'; "
        "x86 has no kernel for Conv2d on int8 weights alone: the weight is widened ahead"
    )
    assert (rows["rnn"].effective, rows["rnn"].code) == ("float32", "FXQ510")
    assert rows["rnn"].reason.startswith(
        "int8: the engines' LSTM kernel has no projections, this one has proj_size=4; "
    )
    assert rows["gru"].effective == "int8" and rows["gru"].code == ""
    assert sqnr_db(model(SHAPES[0]), compiled(SHAPES[0])) > 20


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_generator_that_can_be_read_once_and_fills_one_buffer_serves_every_round():
    def stream():
        buffer = torch.empty(8, 4, 8, 8)
        for batch in SHAPES:
            yield buffer.copy_(batch)

    model = seeded(Shapes)
    once = fxquant.compile(model, "hybrid", calibration_data=stream(), target="x86")
    twice = fxquant.compile(model, "hybrid", calibration_data=SHAPES, target="x86")
    assert [record.name for record in once.history].count("calibrate") == 2, "there was a second round"
    assert once(SHAPES[0]).equal(twice(SHAPES[0]))
    assert once.ledger.as_dicts() == twice.ledger.as_dicts()
    assert once.program.kept_batches == (), "the batches are let go of"


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_calls_in_the_place_of_data_serve_every_round_too_and_of_a_copy():
    model = seeded(Shapes)
    calibrating = fxquant.compile(model, "hybrid", example_inputs=SHAPES[0], target="x86")
    assert calibrating.stage is Stage.PREPARED
    for batch in SHAPES:
        calibrating(batch)
    twin = copy.deepcopy(calibrating)
    at_once = fxquant.compile(model, "hybrid", calibration_data=SHAPES, target="x86")
    for compiled in (calibrating.convert(), twin.convert()):
        assert compiled(SHAPES[0]).equal(at_once(SHAPES[0]))
        assert compiled.ledger["conv"].code == "FXQ510"
        assert compiled.program.kept_batches == ()


@pytest.mark.skipif("qnnpack" not in ENGINES, reason="needs qnnpack")
def test_a_layer_that_an_engine_computes_wrongly_falls_to_its_weights_alone():
    model, data = seeded(lambda: nn.Sequential(nn.ConvTranspose3d(4, 4, 3))), batches(4, 4, 3, 3, 3)
    compiled = fxquant.compile(model, STATIC_FIRST, calibration_data=data, target="qnnpack", strict=True)
    [row] = compiled.ledger.layers
    assert (row.effective, row.code) == ("int8 weights", "FXQ510")
    assert (
        "codes off the canonical graph; int8-dynamic: asks nothing for 'ConvTranspose3d'; qnnpack has no" in row.reason
    )
    assert sqnr_db(model(data[0]), compiled(data[0])) > 35


def _refusing(*args):
    raise RuntimeError("no such weight")


def test_a_weight_that_an_engine_refuses_falls_link_by_link(monkeypatch):
    _, op, op_relu = _packing.PACKED[F.linear]
    monkeypatch.setitem(_packing.PACKED, F.linear, (_refusing, op, op_relu))
    case = AGREE["linear"]
    compiled = fxquant.compile(case.make(), "hybrid", calibration_data=case.batches(2, 16), target="x86", strict=True)
    [row] = compiled.ledger.layers
    assert row.effective == "int8 weights"
    assert row.reason.startswith("int8, int8-dynamic: x86 refuses its weight: no such weight; x86 has no kernel for")
    assert [record.name for record in compiled.history].count("lower-native") == 3


def test_where_every_link_fails_the_last_one_is_told_and_strict_forbids_it(monkeypatch):
    _, op, op_relu = _packing.PACKED[F.linear]
    monkeypatch.setitem(_packing.PACKED, F.linear, (_refusing, op, op_relu))
    case, chain = AGREE["linear"], ("int8", "int8-dynamic")
    options = {"calibration_data": case.batches(2, 16), "target": "x86"}
    [row] = fxquant.compile(case.make(), chain, **options).ledger.layers
    assert (row.effective, row.code) == ("float32", "FXQ504")
    assert row.reason == "int8: x86 refuses its weight: no such weight; x86 refuses its weight: no such weight"
    model = case.make()
    with untouched(model), pytest.raises(LoweringError) as caught:
        fxquant.compile(model, chain, strict=True, **options)
    assert caught.value.code == "FXQ504" and len(caught.value.records) > 13, "the rounds before it are among them"
    compiled = fxquant.compile(model, (*chain, "float"), strict=True, **options)
    assert compiled.ledger.layers[0].effective == "float32", "a chain that ends in float allows it"
    assert compiled(case.inputs()[0]).equal(model(case.inputs()[0])), "with its own weights, not rounded ones"


def test_a_mode_that_no_engine_has_for_a_layer_is_an_error_under_strict_unless_float_is_in_the_chain():
    model, chain = seeded(lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))), ("int8-weight-only",)
    rule = recipe.RecipeRule(("Linear",), scheme=("float16", "int8-dynamic"))
    kept = fxquant.compile(model, recipe.Recipe((rule,)), target="x86")
    assert modes(kept) == {"0": "float32", "1": "float16"}
    fxquant.compile(model, chain, target="x86", strict=True)  # it asks nothing of the LayerNorm
    conv = seeded(lambda: nn.Sequential(nn.Conv1d(2, 2, 1)))
    for scheme in (("float16", "int8-dynamic"), ("float16", "int8-dynamic", "float")):
        made = fxquant.compile(
            conv, recipe.Recipe((recipe.RecipeRule(("Conv1d",), scheme=scheme),)), target="x86", strict=True
        )
        assert made.ledger.layers[0].effective == "float32"


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_strict_names_the_layer_that_no_link_can_serve():
    model = seeded(lambda: nn.Sequential(nn.LSTM(4, 4, proj_size=2)))
    with untouched(model), pytest.raises(FxQuantError) as caught:
        fxquant.compile(model, ("int8-dynamic", "float16"), target="x86", strict=True)
    assert caught.value.code == "FXQ208" and caught.value.module == "0"
    [row] = [r for r in fxquant.compile(model, ("int8-dynamic", "float16"), target="x86").ledger.layers if r.module]
    assert row.code == "FXQ208" and row.reason.startswith("int8-dynamic: the engines' LSTM kernel has no projections")


def test_the_same_request_is_not_tried_twice():
    gru = seeded(lambda: nn.Sequential(nn.GRU(4, 4)))
    compiled = fxquant.compile(
        gru, ("int8", "int8-dynamic", "float"), example_inputs=torch.randn(2, 3, 4), target="x86"
    )
    [decision] = [decision for decision in compiled.plan if decision.op == "GRU"]
    assert [other.link for other in decision.fallbacks] == ["float"]


def test_a_recipe_says_a_chain_and_is_told_in_the_row():
    text = 'schema = 1\n\n[[rule]]\ntargets = ["*"]\nscheme = ["int8", "int8-weight-only", "float"]\n'
    read = recipe.parse(text)
    assert read.rules[0].scheme == ("int8", "int8-weight-only", "float") and recipe.dump(read) == text
    case = BETTER["conv_circular"]
    compiled = fxquant.compile(case.make(), read, calibration_data=case.batches(2, 16), target="x86")
    [row] = compiled.ledger.layers
    assert (row.effective, row.code) == ("int8 weights", "FXQ510")
    assert "rule 1 of the recipe" in compiled.plan[row.site].why


@pytest.mark.parametrize("link", LINKS)
def test_every_preset_can_be_a_link(link):
    case = AGREE["linear"]
    compiled = fxquant.compile(case.make(), (link,), calibration_data=case.batches(2, 16), target="x86")
    plain = fxquant.compile(
        case.make(), link if link != "float" else recipe.Recipe(), calibration_data=case.batches(2, 16), target="x86"
    )
    assert compiled(case.inputs()[0]).equal(plain(case.inputs()[0]))
    assert [row.effective for row in compiled.ledger.layers] == [row.effective for row in plain.ledger.layers]


def test_the_usual_chain_goes_from_the_fastest_to_float():
    assert USUAL[:3] == ("int8", "int8-dynamic", "int8-weight-only") and USUAL[-1] == "float" and len(USUAL) >= 5


BAD = {
    "empty": ((), "the policy: the chain is empty"),
    "unknown": (("int8", "int8-dinamic"), "the policy: link 'int8-dinamic' of chain int8 → int8-dinamic is no preset"),
    "no text": (("int8", None), "the policy: link None of chain int8 → None is no preset"),
    "a chain": (("int8", "hybrid"), "the policy: link 'hybrid' of chain int8 → hybrid is a chain itself"),
    "float first": (("float", "int8"), "the policy: chain float → int8 goes on after 'float'"),
    "twice": (("int8", "int8"), "the policy: chain int8 → int8 has 'int8' twice"),
}


@pytest.mark.parametrize(("chain", "told"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("form", [tuple, list])
def test_a_chain_that_means_nothing_is_an_error(chain, told, form):
    model = AGREE["linear"].make()
    with untouched(model), pytest.raises(QConfigError) as caught:
        fxquant.compile(model, form(chain), target="x86")
    assert (caught.value.code, caught.value.message) == ("FXQ125", told)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("scheme", "told"),
    [
        ("[]", "the recipe, line 4: the chain is empty"),
        ('["int9", "float"]', "the recipe, line 4: link 'int9' of chain int9 → float is no preset"),
        ('["float", "int8"]', "the recipe, line 4: chain float → int8 goes on after 'float'"),
        ('["int8", 3]', "the recipe, line 4: link 3 of chain int8 → 3 is no preset"),
        ('["int8", "float16", "int8"]', "the recipe, line 4: chain int8 → float16 → int8 has 'int8' twice"),
    ],
)
def test_a_recipe_names_the_line_of_a_bad_chain(scheme, told):
    with pytest.raises(QConfigError) as caught:
        recipe.parse(f'schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = {scheme}\n')
    assert (caught.value.code, caught.value.message) == ("FXQ125", told)


def test_a_chain_and_tables_in_one_rule_are_refused():
    with pytest.raises(QConfigError, match="scheme is 'scheme and weight'") as caught:
        recipe.parse('schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = ["int8"]\nweight = { dtype = "int8" }\n')
    assert caught.value.code == "FXQ102"


# Other shapes of models, other ways to compile -----------------------------------------------------------------------

PICTURES = [torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
WEIGHTED_OPS = ("Conv2d", "Linear", "LSTM", "GRU", "TransformerEncoder")


@pytest.mark.parametrize("target", ["x86", "onednn"])
@pytest.mark.parametrize("name", MODELS)
def test_the_hybrid_preset_leaves_no_layer_with_weights_float(name, target, tmp_path):
    model = seeded(MODELS[name])
    with untouched(model):
        compiled = fxquant.compile(model, "hybrid", calibration_data=PICTURES, target=target, strict=True)
    got = [row.effective for row in compiled.ledger.layers if row.op in WEIGHTED_OPS]
    assert got and all("int8" in effective for effective in got)
    assert sqnr_db(model(PICTURES[0]), compiled(PICTURES[0])) > 20
    loaded = fxquant.load(compiled.save(tmp_path / "model.fxq.safetensors"))
    assert loaded(PICTURES[0]).equal(compiled(PICTURES[0]))


def test_the_parts_of_an_attention_fall_together(monkeypatch):
    _, op, op_relu = _packing.PACKED[F.linear]
    monkeypatch.setitem(_packing.PACKED, F.linear, (_refusing, op, op_relu))
    model = seeded(MODELS["encoder"])
    compiled = fxquant.compile(model, "hybrid", calibration_data=PICTURES, target="x86")
    [row] = [row for row in compiled.ledger.layers if row.op == "TransformerEncoder"]
    assert compiled.plan[row.site].mode == "weight-only" and row.code == "FXQ510"
    assert row.reason.startswith("int8, int8-dynamic: x86 refuses its weight: no such weight; ")
    assert row.effective.startswith("int8 weights (") and sqnr_db(model(PICTURES[0]), compiled(PICTURES[0])) > 30


def test_a_layer_without_observers_falls_before_any_data_is_read(monkeypatch):
    is_landed = insert_observers._is_landed
    monkeypatch.setattr(
        insert_observers, "_is_landed", lambda program, node: "body_3" not in node.name and is_landed(program, node)
    )
    model = seeded(MODELS["mlp"])
    calibrating = fxquant.compile(model, "hybrid", example_inputs=PICTURES[0], target="x86", strict=True)
    assert calibrating.stage is Stage.PREPARED
    assert calibrating.plan["body_3"].mode == "dynamic"
    calibrating(PICTURES[0])
    row = calibrating.convert().ledger["body_3"]
    assert row.effective == "int8" and row.reason.startswith(
        "int8: the engines have no int8 kernel for LinearReLU here"
    )


def test_a_pipeline_that_ends_early_decides_as_far_as_it_comes():
    case = BETTER["conv_circular"]
    pipeline = fxquant.default_pipeline().until(Stage.CONVERTED)
    compiled = fxquant.compile(
        case.make(), "hybrid", calibration_data=case.batches(2, 16), target="x86", passes=pipeline
    )
    assert compiled.stage is Stage.CONVERTED and compiled.plan[compiled.ledger.layers[0].site].mode == "static"


def test_a_compressed_model_takes_a_chain_and_stays_as_it_is():
    case = BETTER["conv_circular"]
    made = fxquant.compress(case.make(), [])
    before = {name: value.clone() for name, value in made.state_dict().items()}
    compiled = fxquant.compile(made, "hybrid", calibration_data=case.batches(2, 16), target="x86")
    assert compiled.ledger.layers[0].code == "FXQ510"
    assert all(value.equal(before[name]) for name, value in made.state_dict().items())
    assert made.ledger.layers[0].code == "", "its own ledger tells nothing of this"


def test_the_stages_of_a_model_with_two_rounds_are_those_of_the_last_one():
    case = BETTER["conv_circular"]
    seen = []
    compiled = fxquant.compile(
        case.make(), "hybrid", calibration_data=case.batches(2, 16), target="x86", observers=[seen.append]
    )
    assert [record.name for record in seen] == [record.name for record in compiled.history]
    observers = [node for node in compiled.snapshot("prepared") if "Observer" in node.kind]
    assert observers == [], "the layer that fell needs none"
    assert compiled.diff("traced", "lowered").counts


# The pieces ---------------------------------------------------------------------------------------------------------


def decision(mode, requested, why):
    return Decision("site", "fc", "Linear", mode, object() if mode is not Mode.FLOAT else None, requested, why)


def test_where_all_that_was_asked_is_refused_the_site_is_declined():
    refused = decision(Mode.FLOAT, "static quint8", "kept float because 'x86' serves quint8 (rule 1)")
    left_out = decision(Mode.FLOAT, "float32", "no rule matches")
    found = chained([("int8", refused), ("float16", left_out)], "chain c", is_explicit=True)
    assert is_declined(found) and found.requested == "int8 → float16" and found.is_explicit
    assert found.why == (
        "kept float because no link serves it: int8: 'x86' serves quint8 (rule 1); float16: asks nothing for 'Linear' "
        "(chain c)"
    )
    end = decision(Mode.FLOAT, "float32", "-")
    allowed = chained([("int8", refused), ("float", end)], "chain c", is_explicit=False)
    assert not is_declined(allowed) and allowed.tried == (("int8", "'x86' serves quint8 (rule 1)"),)


def test_falling_tells_the_whole_way_and_says_a_reason_once():
    modes = ((Mode.STATIC, "int8"), (Mode.DYNAMIC, "int8-dynamic"), (Mode.WEIGHT_ONLY, "int8-weight-only"))
    steps = [(name, decision(mode, str(mode), "its rule")) for mode, name in modes]
    first = chained(steps, "chain c", is_explicit=False)
    second = first.fall("no kernel")
    third = second.fall("no kernel")
    assert [step.mode for step in (first, second, third)] == [Mode.STATIC, Mode.DYNAMIC, Mode.WEIGHT_ONLY]
    assert second.why == "int8: no kernel; int8-dynamic by its rule (chain c)"
    assert third.why == "int8, int8-dynamic: no kernel; int8-weight-only by its rule (chain c)"
    assert third.fallbacks == ()
    last = _fallen(first, "no kernel", is_last=True)
    assert last.mode is Mode.WEIGHT_ONLY and "int8-dynamic: not tried, so that this ends; " in last.why


def test_more_batches_than_are_kept_is_said(monkeypatch):
    for module in (calibration, rounds):
        monkeypatch.setattr(module, "MOST_KEPT", 2)
    case = BETTER["conv_circular"]
    compiled = fxquant.compile(
        nn.Sequential(case.make(), nn.Conv2d(4, 2, 1)).eval(),
        "hybrid",
        calibration_data=case.batches(5, 16),
        target="x86",
    )
    assert "the next round of a chain saw 2 batches again: no more are kept" in [
        row.reason for row in compiled.ledger.notices if row.code == "FXQ309"
    ]
