"""Rules for single activation sites: float where one range would spoil the model, or another observer; bad ones are FXQ126."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import qdq, recipe, torch_ao
from fxquant.activation_sites import ActivationRule, SiteDecision, check_activation, code_range
from fxquant.errors import QConfigError, RecipeError, UnknownTargetError
from fxquant.numerics import sqnr_db
from fxquant.origin import site_of
from fxquant.passes._activation_sites import _made
from fxquant.recipe import Recipe, RecipeRule
from support.asserts import untouched

with torch_ao.quiet():
    from torch.ao.quantization import default_fake_quant, default_fused_act_fake_quant

HAS_ONEDNN = torch.backends.mkldnn.is_available()


class Spiky(nn.Module):
    """Channel 0 of what `b` gives is a thousand times the others, and `c` makes up for it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.fc = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Linear(8, 4, bias=False)
        with torch.no_grad():
            self.b.weight[0] *= 1000
            self.c.weight[:, 0] /= 1000

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.fc(torch.relu(self.c(x)).mean((2, 3)))


class Forked(nn.Module):
    """One value with two readers."""

    def __init__(self):
        super().__init__()
        self.a, self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        y = self.a(x)
        return self.left(y), self.right(y)


class Moved(nn.Module):
    """A convolution whose values are only moved before they are read."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.flat = nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Flatten()
        self.fc = nn.Linear(36, 4)

    def forward(self, x):
        return self.fc(self.flat(self.pool(self.conv(x))))


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


GENERATOR = torch.Generator().manual_seed(3)
PICTURES = [torch.randn(16, 3, 8, 8, generator=GENERATOR) for _ in range(3)]
SMALL = [torch.randn(16, 2, 8, 8, generator=GENERATOR) for _ in range(2)]
VECTORS = [torch.randn(32, 8, generator=GENERATOR) for _ in range(2)]
NOT_LOWERED = fxquant.default_pipeline(target="x86").without("lower-native")
PLAIN = RecipeRule(("*",), scheme="int8")


def with_sites(model, data, *sites, rule=PLAIN, target="x86", **options):
    given = Recipe((rule,), activations=sites)
    return fxquant.compile(model, given, calibration_data=data, target=target, **options)


def quantizes(compiled):
    nodes = compiled.canonical.graph.nodes
    return [node for node in nodes if node.target is qdq.quantize_per_tensor]


def written(compiled, site):
    """What quantizes the result of one call."""
    return [node for node in quantizes(compiled) if site in (site_of(node.args[0]), node.args[0].name)]


def rows(compiled):
    return {row.module or row.op: row for row in compiled.ledger.layers}


def test_one_site_left_float_wins_the_model_back_while_all_others_stay_int8():
    model = seeded(Spiky)
    plain, kept = with_sites(model, PICTURES), with_sites(model, PICTURES, ActivationRule(("b",), keep="float"))
    plain_db, kept_db = (sqnr_db(model(PICTURES[0]), compiled(PICTURES[0])) for compiled in (plain, kept))
    assert plain_db < 20 and kept_db > plain_db + 12
    assert len(quantizes(kept)) == len(quantizes(plain)) - 1
    found = rows(kept)
    assert [found[name].effective for name in ("a", "mean", "fc")] == ["int8"] * 3
    assert found["b"].reason.startswith("its output stays float32, by activation rule 1 of the recipe; ")
    assert found["b"].effective == ("int8" if HAS_ONEDNN else "int8 weights")
    assert found["c"].reason.startswith("its input stays float32, by activation rule 1 of the recipe; ")
    assert all(codes.dtype is torch.int8 for name, codes in kept.state_dict().items() if name.endswith(".weight"))


@pytest.mark.parametrize(
    "site", [ActivationRule(("b",), keep="float"), ActivationRule(("c",), site="input", keep="float")]
)
def test_it_is_the_same_to_name_the_one_who_writes_or_the_one_who_reads(site, tmp_path):
    model = seeded(Spiky)
    compiled = with_sites(model, PICTURES, site, strict=True)
    other = with_sites(model, PICTURES, ActivationRule(("b",), keep="float"))
    assert compiled(PICTURES[0]).equal(other(PICTURES[0]))
    loaded = fxquant.load(compiled.save(tmp_path / "spiky.fxq.safetensors"))
    assert loaded(PICTURES[0]).equal(compiled(PICTURES[0]))
    assert [row.effective for row in loaded.ledger.layers] == [row.effective for row in compiled.ledger.layers]


def test_an_input_is_kept_float_for_one_reader_alone():
    model = seeded(Forked)
    compiled = with_sites(model, VECTORS, ActivationRule(("left",), site="input", keep="float"))
    found = rows(compiled)
    assert found["left"].reason.startswith("its input stays float32, by activation rule 1")
    assert (found["right"].effective, found["right"].code) == ("int8", "")
    left, right = compiled(VECTORS[0])
    assert sqnr_db(model(VECTORS[0])[0], left) > 35 and sqnr_db(model(VECTORS[0])[1], right) > 25


def test_what_only_moves_values_follows_the_site_it_moves():
    model = seeded(Moved)
    compiled = with_sites(model, SMALL, ActivationRule(("conv",), keep="float"))
    assert [site_of(node.args[0]) for node in quantizes(compiled)] == ["x", "fc"]
    coarse = with_sites(model, SMALL, ActivationRule(("conv",), num_bits=3))
    scales = {node.args[1:5] for node in quantizes(coarse) if site_of(node.args[0]) not in ("x", "fc")}
    assert len(scales) == 1 and {limits[2:] for limits in scales} == {(0, 7)}


@pytest.mark.parametrize(
    ("said", "limits"),
    [({"num_bits": 4}, (0, 15)), ({"num_bits": 8}, (0, 255)), ({"dtype": "int8"}, (-128, 127)),
     ({"num_bits": 2, "dtype": "int8", "observer": "minmax"}, (-2, 1))],
)  # fmt: skip
@pytest.mark.parametrize("site", ["output", "input"])
def test_a_site_is_quantized_as_its_rule_says_and_the_others_as_before(said, limits, site):
    model, target = seeded(Forked), "a" if site == "output" else "left"
    converted = with_sites(model, VECTORS, ActivationRule((target,), site=site, **said), passes=NOT_LOWERED)
    found = [node.args[3:5] for node in written(converted, "a")]
    assert found == [limits] if site == "output" else sorted(found) == sorted([limits, (0, 255)])
    compiled = with_sites(model, VECTORS, ActivationRule((target,), site=site, **said))
    assert "by activation rule 1 of the recipe" in rows(compiled)[target].reason


@pytest.mark.parametrize("site", ["output", "input"])
def test_signed_codes_of_all_8_bits_run_on_x86_as_unsigned_ones_of_the_same_values(site):
    model, target = seeded(Forked), "a" if site == "output" else "left"
    rule = ActivationRule((target,), site=site, dtype="int8")
    converted, compiled = with_sites(model, VECTORS, rule, passes=NOT_LOWERED), with_sites(model, VECTORS, rule)
    signed, unsigned = ([node.args[1:] for node in written(found, "a")] for found in (converted, compiled))
    [(scale, zero_point, *_)] = [args for args in signed if args[-1] is torch.int8]
    shifted = (scale, zero_point + 128, 0, 255, torch.uint8)
    assert unsigned == [shifted if args[-1] is torch.int8 else args for args in signed]
    assert all(row.effective == "int8" for row in compiled.ledger.layers)
    for ours, theirs in zip(compiled(VECTORS[0]), converted(VECTORS[0]), strict=True):
        assert sqnr_db(theirs, ours) > 40


def test_an_observer_alone_changes_the_range_and_keeps_the_kernel():
    model = seeded(Forked)
    found = [with_sites(model, VECTORS, ActivationRule(("a",), observer=kind)) for kind in ("minmax", "histogram")]
    assert all(row.effective == "int8" for compiled in found for row in compiled.ledger.layers)
    scales = [[node.args[1] for node in written(compiled, "a")] for compiled in found]
    assert scales[0] != scales[1]


def test_the_fixed_range_of_a_sigmoid_gives_way():
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2)))
    compiled = with_sites(model, VECTORS, ActivationRule(("Sigmoid",), num_bits=5))
    assert [node.args[3:5] for node in quantizes(compiled)].count((0, 31)) == 1
    assert sqnr_db(model(VECTORS[0]), compiled(VECTORS[0])) > 15


def test_a_reader_of_a_float_value_falls_to_dynamic_in_a_chain():
    model, rule = seeded(Forked), RecipeRule(("*",), scheme=("int8", "int8-dynamic", "float"))
    compiled = with_sites(model, VECTORS, ActivationRule(("left",), site="input", keep="float"), rule=rule, strict=True)
    row = rows(compiled)["left"]
    assert (row.effective, row.code) == ("int8", "FXQ510")
    assert row.reason.startswith("int8: its input stays float32; ") and "linear_dynamic" in row.reason
    assert rows(compiled)["right"].reason == "runs as quantized.linear on x86"


def test_the_first_rule_that_matches_decides_and_ignore_is_left_alone():
    model = seeded(Forked)
    sites = (
        ActivationRule(("left", "right"), site="input", keep="float", ignore=("right",)),
        ActivationRule(("*",), site="input", num_bits=4),
    )
    compiled = with_sites(model, VECTORS, *sites)
    assert "stays float32, by activation rule 1" in rows(compiled)["left"].reason
    assert "quantized with 4 bits, by activation rule 2" in rows(compiled)["right"].reason


def test_a_rule_that_changes_nothing_says_so():
    model = seeded(Forked)
    given = Recipe((), activations=(ActivationRule(("a",), num_bits=4),))
    compiled = fxquant.compile(model, given, example_inputs=VECTORS[0], target="x86")
    [notice] = [row for row in compiled.ledger.notices if row.code == "FXQ114"]
    assert notice.reason == (
        "activation rule 1 of the recipe changes nothing: the output of none of its layers would have been quantized"
    )


def test_a_site_that_matches_nothing_is_an_error_with_the_nearest_name():
    model = seeded(Forked)
    with untouched(model), pytest.raises(UnknownTargetError) as caught:
        with_sites(model, VECTORS, ActivationRule(("lefd",), keep="float"))
    assert caught.value.code == "FXQ110" and "'lefd' (activation rule 1 of the recipe)" in caught.value.message
    assert "left" in caught.value.hint


@pytest.mark.parametrize("said", [{"num_bits": 4}, {"observer": "minmax"}, {"num_bits": 3, "dtype": "int8"}])
@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_in_training_a_fake_quantize_takes_the_place_of_one(kind, said):
    with torch_ao.quiet():
        old = {"fused": default_fused_act_fake_quant, "plain": default_fake_quant}[kind]()
    made = _made(old, SiteDecision("a", ActivationRule(("a",), **said), "a rule"))
    x = torch.randn(64)
    assert hasattr(made, "activation_post_process")
    limits = code_range(str(made.dtype).removeprefix("torch."), said.get("num_bits", 8))
    assert "num_bits" not in said or (made.quant_min, made.quant_max) == limits
    assert len(made(x).unique()) <= 1 << said.get("num_bits", 8)


# Text ---------------------------------------------------------------------------------------------------------------

TEXT = """schema = 1

[[rule]]
targets = ["*"]
scheme = "int8"

[[activation]]
targets = ["features.0", "re:block\\\\d"]
keep = "float"

[[activation]]
targets = ["Linear"]
site = "input"
num_bits = 6
observer = "minmax"
dtype = "int8"
ignore = ["head"]
"""


def test_activation_rules_survive_writing_and_reading():
    read = recipe.parse(TEXT)
    assert read.activations == (
        ActivationRule(("features.0", "re:block\\d"), keep="float"),
        ActivationRule(("Linear",), "input", num_bits=6, observer="minmax", dtype="int8", ignore=("head",)),
    )
    assert recipe.dump(read) == TEXT and recipe.parse(recipe.dump(read)) == read


BAD = {
    "sideways": ('site = "sideways"\nkeep = "float"', "site is 'sideways', expected output or input"),
    "keep int8": ('keep = "int8"', "keep is 'int8', expected float"),
    "keep and bits": ('keep = "float"\nnum_bits = 4', "keep = 'float' and num_bits exclude each other"),
    "keep and observer": ('keep = "float"\nobserver = "minmax"', "keep = 'float' and observer exclude each other"),
    "nothing": ('site = "input"', "says nothing of its sites"),
    "one bit": ("num_bits = 1", "num_bits is 1, expected a whole number from 2 to 8"),
    "true bits": ("num_bits = true", "num_bits is True, expected a whole number from 2 to 8"),
    "text bits": ('num_bits = "4"', "num_bits is '4', expected a whole number from 2 to 8"),
    "list": ("site = []\nnum_bits = 4", "site is [], expected output or input"),
    "dtype": ('dtype = "float16"', "dtype is 'float16', expected uint8 or int8"),
    "observer": (
        'observer = "minimax"',
        "observer is 'minimax', expected histogram or minmax or moving-average or mse",
    ),
}


@pytest.mark.parametrize(("body", "told"), BAD.values(), ids=BAD)
def test_an_activation_rule_that_means_nothing_names_its_line(body, told):
    with pytest.raises(QConfigError) as caught:
        recipe.parse(
            f'schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = "int8"\n[[activation]]\ntargets = ["a"]\n{body}\n'
        )
    assert (caught.value.code, caught.value.message) == ("FXQ126", f"the recipe, line 6: {told}")


def test_one_that_was_built_in_python_is_held_to_the_same():
    model = seeded(Forked)
    with untouched(model), pytest.raises(QConfigError) as caught:
        with_sites(model, VECTORS, ActivationRule(("a",), keep="float", num_bits=4))
    assert caught.value.code == "FXQ126" and caught.value.message.startswith("activation rule 1 of the recipe: keep =")
    with pytest.raises(QConfigError, match="num_bits is 9"):
        check_activation(ActivationRule(("a",), num_bits=9), "here")


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ('keeps = "float"', "FXQ103", "the recipe, line 4: unknown key 'keeps'"),
        ("targets = 3", "FXQ102", "the recipe, line 4: targets is 3, expected a list of names, none of them empty"),
        (
            "targets = []",
            "FXQ102",
            'the recipe, line 4: targets is [], expected a list of names, such as ["features.0"]',
        ),
    ],
)
def test_other_mistakes_are_those_of_any_rule(body, code, told):
    targets = "" if "targets" in body else 'targets = ["a"]\n'
    with pytest.raises((QConfigError, RecipeError)) as caught:
        recipe.parse(f"schema = 1\n\n[[activation]]\n{body}\n{targets}")
    assert (caught.value.code, caught.value.message) == (code, told)


def test_activation_that_is_no_list_of_tables_is_refused():
    with pytest.raises(QConfigError, match="activation is 3, expected tables, each under a line") as caught:
        recipe.parse("schema = 1\nactivation = 3\n")
    assert caught.value.code == "FXQ102"
