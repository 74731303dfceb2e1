"""fxquant.profile on nets of each shape: what is told, what is left as it was, and how it is written down."""

from __future__ import annotations

import csv
import io
import json
import math
import sys

import pytest
import torch
from torch import nn

import fxquant
from fxquant.plan import Mode
from fxquant.profiling import plotting
from fxquant.profiling.advice import Kind
from fxquant.profiling.evidence import Evidence
from fxquant.profiling.result import Profile
from fxquant.recipe import Recipe, parse
from fxquant.tools.digits_models import MODELS
from support.troubled import Chain, chain, normal

PICTURES = (8, 1, 8, 8)


def built(name, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name]().eval()


@pytest.fixture(scope="module", params=sorted(MODELS))
def profiled(request):
    model = built(request.param)
    return model, fxquant.profile(model, normal(*PICTURES), verify=False)


def test_each_call_site_of_the_plan_has_a_layer_with_its_line(profiled):
    model, profile = profiled
    compiled = fxquant.compile(model, "int8", calibration_data=normal(*PICTURES))
    assert [layer.site for layer in profile] == [decision.site for decision in compiled.plan]
    assert len(profile) == len(profile.layers) and profile.batches == 4 and profile.rows == 32
    assert all("digits_models.py:" in layer.where and " in forward" in layer.where for layer in profile)


def _kept(out):
    return out.clone() if isinstance(out, torch.Tensor) else out  # a ReLU in place writes into what it is given


def test_values_are_those_of_the_float_model_over_all_batches(profiled):
    model, profile = profiled
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, []).append(_kept(out)))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        for batch in normal(*PICTURES):
            model(batch)
    for hook in hooks:
        hook.remove()
    checked = 0
    for layer in profile:
        if (
            layer.values is None
            or layer.op[:1].islower()
            or not isinstance(seen.get(layer.module, [None])[0], torch.Tensor)
        ):
            continue
        values = torch.cat([value.flatten() for value in seen[layer.module]]).double()
        assert layer.values.count == values.numel()
        assert (layer.values.low, layer.values.high) == pytest.approx(
            (float(values.min()), float(values.max())), rel=1e-4
        )
        assert layer.values.mean == pytest.approx(float(values.mean()), rel=1e-4, abs=1e-6)
        assert layer.values.std == pytest.approx(float(values.std(correction=0)), rel=1e-4)
        checked += 1
    assert checked


def test_layers_with_weights_have_them_and_what_is_left_of_them_as_codes(profiled):
    model, profile = profiled
    weights = [weight for layer in profile for weight in layer.weights]
    assert sum(math.prod(weight.shape) for weight in weights) == sum(
        parameter.numel() for name, parameter in model.named_parameters() if parameter.dim() >= 2 and name != "place"
    )
    assert all(weight.granularity == "channel" and weight.bits == 8 for weight in weights)
    assert all(weight.sqnr_db > 35 and weight.bits_used > 7 and weight.pair_sum > 32_767 for weight in weights)


def test_seconds_of_both_graphs_stand_side_by_side(profiled):
    _, profile = profiled
    timed = [layer for layer in profile if layer.seconds]
    assert timed and all(layer.group_float_seconds > 0 for layer in timed)
    by_site = {layer.site: layer for layer in profile}
    for layer in profile:
        together = [by_site[site] for site in layer.computed_with]
        assert all(other.seconds == layer.seconds and layer.site in other.computed_with for other in together)
        alone = sum(one.float_seconds for one in (layer, *together))
        assert layer.group_float_seconds == pytest.approx(alone)
    groups = {tuple(sorted((layer.site, *layer.computed_with))): layer.seconds for layer in profile}
    assert sum(groups.values()) + profile.conversion_seconds == pytest.approx(profile.node_seconds, rel=0.05)


def test_without_verifying_the_recipe_is_the_start_and_says_so(profiled):
    _, profile = profiled
    assert profile.recipe() == Recipe((parse('schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = "int8"').rules[0],))
    assert profile.reason == "FXQ321 the start is kept: nothing was tried: verify=False"
    assert not any(advice.is_verified for advice in profile.advice)


def test_every_form_of_it_can_be_had(profiled):
    _, profile = profiled
    told = json.loads(profile.to_json())
    assert [layer["site"] for layer in told["layers"]] == [layer.site for layer in profile]
    assert told["recipe"] == profile.recipe_text() and told["batches"] == 4
    rows = list(csv.DictReader(io.StringIO(profile.to_csv())))
    assert [row["site"] for row in rows] == [layer.site for layer in profile]
    assert all(None not in row and None not in row.values() for row in rows), "each line has as many cells as heads"
    assert float(rows[-1]["value_high"]) == pytest.approx(profile.layers[-1].values.high)
    text = str(profile)
    assert all(layer.name in text for layer in profile) and not any(line.endswith(" ") for line in text.splitlines())


@pytest.mark.parametrize(("name", "kinds"), [("cnn", ()), ("lstm", ()), ("encoder", (Kind.DYNAMIC,))])
def test_the_recipe_that_was_tried_is_no_worse_than_the_start(name, kinds):
    model, data = built(name), normal(*PICTURES)
    profile = fxquant.profile(model, data, seconds=20)
    assert [advice.kind for advice in profile.advice if advice.is_verified][: len(kinds)] == list(kinds)
    assert profile.best.sqnr_db >= profile.start.sqnr_db > 25
    with torch.no_grad():
        expected = torch.cat([model(batch) for batch in data])
    for policy, told in (("int8", profile.start), (profile.recipe(), profile.best)):
        compiled = fxquant.compile(model, policy, calibration_data=data)
        found = fxquant.sqnr_db(expected, torch.cat([compiled(batch) for batch in data]))
        assert found == pytest.approx(told.sqnr_db, abs=0.05)


def test_fused_layers_share_one_kernel():
    profile = fxquant.profile(built("cnn"), normal(*PICTURES), verify=False)
    assert profile["stem.0"].computed_with == ("stem_1", "stem_2") and profile["stem.0"].seconds > 0
    assert profile["stem.1"].effective == "folded into stem.0"
    assert profile["stem.2"].quant_low is not None and profile["stem.0"].quant_low is None
    assert profile["stem_2"] is profile["stem.2"]
    with pytest.raises(KeyError):
        profile["nothing"]


def test_dynamic_and_weight_only_starts_are_profiled_too():
    for start in ("int8-dynamic", "int8-weight-only", "float16"):
        profile = fxquant.profile(built("mlp"), normal(*PICTURES), qconfig_mapping=start, seconds=1)
        assert profile.policy == f"preset '{start}'" and profile["head"].sqnr_db > 30
        assert profile["head"].quant_low is None and profile["head"].clipped is None


def test_nothing_of_the_callers_is_touched():
    model, batches = built("cnn"), normal(*PICTURES)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    kept = [batch.clone() for batch in batches]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    torch.manual_seed(3)
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    engine = torch.backends.quantized.engine
    profile = fxquant.profile(model, batches, seconds=20, target="x86")
    assert any(advice.is_verified for advice in profile.advice), "something was tried"
    assert torch.equal(torch.get_rng_state(), random_state) and torch.get_num_threads() == threads
    assert torch.backends.quantized.engine == engine and torch.is_grad_enabled()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(map(torch.equal, batches, kept))
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.fc(x) + self.calls


def test_a_buffer_that_forward_writes_counts_no_run_of_the_profile():
    profile = fxquant.profile(Counting().eval(), normal(8, 4), verify=False)
    assert profile["fc"].values.count == 4 * 8 * 4
    added = [layer for layer in profile if layer.op == "add"][-1]
    assert added.values.high < profile["fc"].values.high + 1.01, "each batch began with the model's own count"


def test_keyword_batches_and_labelled_ones_are_understood():
    batches = [{"x": batch} for batch in normal(*PICTURES)]
    assert fxquant.profile(built("mlp"), batches, verify=False).rows == 32
    labelled = [(batch, torch.zeros(8, dtype=torch.long)) for batch in normal(*PICTURES)]
    profile = fxquant.profile(built("mlp"), labelled, verify=False)
    assert profile.rows == 32 and any(note.startswith("FXQ308") for note in profile.notes)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 4)

    def forward(self, ids):
        return self.head(self.words(ids).mean(1))


def test_whole_numbers_are_inputs_and_no_distributions():
    ids = [torch.randint(0, 20, (8, 5), generator=torch.Generator().manual_seed(index)) for index in range(3)]
    profile = fxquant.profile(Tokens().eval(), ids, seconds=2)
    assert profile["words"].values.channels == 8 and profile["words"].weights[0].shape == (20, 8)
    assert profile["words"].weights[0].sqnr_db is None, "an embedding's qparams are floats"
    assert all(layer.values is None or layer.values.count for layer in profile)


class Half(nn.Module):
    """Has a layer that forward() never calls."""

    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("data", [normal(8, 4), None])
def test_a_layer_that_is_never_called_has_its_weights_and_says_so(data):
    profile = fxquant.profile(Half().eval(), data, verify=False)
    assert not profile["spare.0"].is_called and profile["spare.0"].reason == "forward() never calls it"
    assert profile["spare.0"].weights[0].shape == (2, 4) and profile["spare.0"].values is None
    assert [layer.module for layer in profile] == ["used", "spare.0"]
    assert "spare.0 (never called)" in str(profile)


class Functional(nn.Module):
    """Uses its weight by name: no module is called."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x):
        return nn.functional.linear(x, self.weight).relu()


def test_a_weight_that_is_read_by_its_name_belongs_to_the_call():
    (linear, relu) = fxquant.profile(Functional().eval(), normal(8, 4), verify=False)
    assert linear.weights[0].shape == (4, 4) and linear.op == "linear" and not relu.weights


def test_without_data_only_the_weights_are_told():
    profile = fxquant.profile(chain())
    assert profile.notes == ("FXQ320 there is no data: only the weights are profiled, nothing is timed",)
    assert profile.reason == "FXQ321 the start is kept: there is no data to try anything on"
    assert len(profile["third.0"].weights) == 1 and profile["third.0"].values is None
    assert profile.start is None and profile.batches == profile.rows == 0
    assert all(layer.seconds is None and layer.own_sqnr_db is None for layer in profile)
    assert "weights only" in str(profile) and json.loads(profile.to_json())["output_sqnr_db"] is None


def test_a_captured_model_is_profiled_like_the_one_it_came_from():
    trainable = fxquant.compress(chain(), []).eval()
    profile = fxquant.profile(trainable, normal(8, 1, 8, 8), verify=False)
    assert profile["third.0"].own_sqnr_db is None and profile["third.1"].own_sqnr_db > 20
    assert all(layer.is_called for layer in profile)


def test_a_mapping_has_an_outcome_for_compile_and_no_recipe():
    from torch.ao.quantization import get_default_qconfig_mapping

    mapping = get_default_qconfig_mapping("x86")
    profile = fxquant.profile(chain(), normal(8, 1, 8, 8), qconfig_mapping=mapping, seconds=3, target="x86")
    compiled = fxquant.compile(chain(), profile.outcome, calibration_data=normal(8, 1, 8, 8), target="x86")
    assert {decision.mode for decision in compiled.plan} == {Mode.STATIC}
    with pytest.raises(fxquant.FxQuantError) as caught:
        profile.recipe()
    assert caught.value.code == "FXQ142" and json.loads(profile.to_json())["recipe"] is None


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("<b>&$x$", nn.Linear(4, 4))

    def forward(self, x):
        return self._modules["<b>&$x$"](x)


def test_names_are_text_in_a_notebook_and_in_a_chart(tmp_path):
    profile = fxquant.profile(Odd().eval())
    page = profile._repr_html_()
    assert "&lt;b&gt;&amp;$x$" in page and "<b>" not in page and page.startswith("<div>")
    assert profile.plot(tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_profile_is_cut_in_a_notebook_and_in_a_chart(tmp_path, monkeypatch):
    class Long(nn.Sequential):
        pass

    model = Long(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(105))).eval()
    profile = fxquant.profile(model)
    assert "and 10 more layers" in profile._repr_html_() and len(profile) == 210
    monkeypatch.setattr(plotting, "MOST_LAYERS", 3)
    drawn = profile.plot(tmp_path / "p.svg").read_text()
    assert drawn.startswith("<?xml") and "the first 3" in drawn and drawn.count('id="axes_') >= 3


def test_a_chart_touches_no_global_of_matplotlib(tmp_path):
    import matplotlib

    before = matplotlib.get_backend(auto_select=False), "matplotlib.pyplot" in sys.modules
    fxquant.profile(chain()).plot(tmp_path / "p.pdf")
    assert (matplotlib.get_backend(auto_select=False), "matplotlib.pyplot" in sys.modules) == before


def test_a_profile_is_frozen_and_exported():
    assert repr(fxquant.profile(chain())).startswith("Profile(Chain, preset 'int8', target='")
    assert fxquant.Profile is Profile and Evidence.__dataclass_params__.frozen
    with pytest.raises(AttributeError):
        fxquant.profile(Chain().eval()).target = "x"
