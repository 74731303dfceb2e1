"""FAULTS rows 33–45: what a user can get wrong in a policy. Each names the culprit and leaves the model alone."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from fxquant import torch_ao
from fxquant.errors import BackendError, FxQuantError, QConfigError, RecipeError, UnknownTargetError
from fxquant.passes.select_qconfigs import SelectQConfigs
from fxquant.policy import read_policy
from support.asserts import untouched
from support.tracing import run_passes

with torch_ao.quiet():
    from torch.ao.quantization import (
        MinMaxObserver,
        PerChannelMinMaxObserver,
        QConfig,
        QConfigMapping,
        get_default_qconfig,
        per_channel_dynamic_qconfig,
    )

STATIC = get_default_qconfig("x86")
WEIGHT = MinMaxObserver.with_args(dtype=torch.qint8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(x)).mean((2, 3)))


def plan(given, *, strict=False):
    """Plan a Net by this policy; the model must stay as it is, whatever happens."""
    model = Net().eval()
    with untouched(model):
        return run_passes(SelectQConfigs(read_policy(given, target="x86"), strict), model, torch.ones(1, 3, 2, 2))


def recipe(tmp_path, body, *, head="schema = 1\n"):
    path = tmp_path / "my.toml"
    path.write_text(head + body, encoding="utf-8")
    return path


def rule(lines, targets='["Linear"]'):
    return f"[[rule]]\ntargets = {targets}\n{lines}\n"


def channel(axis):
    options = {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric, "ch_axis": axis}
    return QConfig(MinMaxObserver, PerChannelMinMaxObserver.with_args(**options))


def mapping(level, *entry):
    return getattr(QConfigMapping(), f"set_{level}")(*entry)


RANGE_TURNED = mapping("global", QConfig(MinMaxObserver.with_args(quant_min=9, quant_max=2), WEIGHT))
RANGE_WITHOUT_0 = mapping("global", QConfig(MinMaxObserver.with_args(quant_min=9, quant_max=20), WEIGHT))
NO_SUCH = mapping("global", QConfig(MinMaxObserver, WEIGHT.with_args(no_such=1)))
CONV_AXIS_7 = mapping("object_type", nn.Conv2d, channel(7))

# row, policy (or recipe text), class, code, what the message must name
ROWS = [
    (33, mapping("module_name", "layer1.00", STATIC), UnknownTargetError, "FXQ110", ["'layer1.00'"]),
    (33, mapping("module_name", "", STATIC), UnknownTargetError, "FXQ110", ["module_name ''"]),
    (33, mapping("module_name_object_type_order", "layer1", nn.Conv2d, 5, STATIC), UnknownTargetError, "FXQ110", ["5"]),
    (33, rule('scheme = "int8"', '["Linaer"]'), UnknownTargetError, "FXQ110", ["'Linaer'", "rule 1", "my.toml"]),
    (33, rule('scheme = "int8"\nignore = ["haed"]'), UnknownTargetError, "FXQ110", ["'haed'"]),
    (33, 'ignore = ["nothing"]\n', UnknownTargetError, "FXQ110", ["'nothing'"]),
    (34, mapping("module_name_regex", "layer9.*", STATIC), UnknownTargetError, "FXQ110", ["'layer9.*'"]),
    (34, rule('scheme = "int8"', '["re:layer9"]'), UnknownTargetError, "FXQ110", ["re:layer9"]),
    (35, mapping("module_name_regex", "layer[1", STATIC), RecipeError, "FXQ101", ["'layer[1'", "column 6"]),
    (35, rule('scheme = "int8"', '["re:layer(1"]'), RecipeError, "FXQ101", ["line 3", "column 6", "'layer(1'"]),
    (35, mapping("module_name_regex", 3, STATIC), RecipeError, "FXQ101", ["3"]),
    (36, mapping("module_name_regex", "(a+)+$", STATIC), RecipeError, "FXQ101", ["(a+)+$", "exponential"]),
    (36, rule('scheme = "int8"', '["re:(a|a)*$"]'), RecipeError, "FXQ101", ["(a|a)*$"]),
    (36, mapping("module_name_regex", "a?" * 40 + "b", STATIC), RecipeError, "FXQ101", ["a?a?", "exponential"]),
    (36, mapping("module_name_regex", "(((a?){8}){8}){8}b", STATIC), RecipeError, "FXQ101", ["(a?){8}"]),
    (36, mapping("module_name_regex", "(x|aa|a)" * 30 + "c", STATIC), RecipeError, "FXQ101", ["(x|aa|a)"]),
    (36, mapping("module_name_regex", "a" * 1001, STATIC), RecipeError, "FXQ101", ["1001"]),
    (36, mapping("module_name_regex", "(" * 5000, STATIC), RecipeError, "FXQ101", ["5000"]),
    (37, mapping("global", "int8"), QConfigError, "FXQ102", ["global", "'int8'", "str"]),
    (37, mapping("module_name", "head", {"dtype": 8}), QConfigError, "FXQ102", ["'head'", "dict"]),
    (37, mapping("object_type", nn.Linear, torch.qint8), QConfigError, "FXQ102", ["'Linear'", "torch.qint8"]),
    (37, mapping("global", (MinMaxObserver(), WEIGHT)), QConfigError, "FXQ102", ["global"]),
    (37, "int9", QConfigError, "FXQ102", ["'int9'"]),
    (37, None, QConfigError, "FXQ102", ["None"]),
    (37, {"module_name": 3}, QConfigError, "FXQ102", ["module_name", "3"]),
    (37, {"module_name": [("head",)]}, QConfigError, "FXQ102", ["('head',)"]),
    (37, {"module_name": [(3, STATIC)]}, QConfigError, "FXQ102", ["3"]),
    *(
        (38, rule(f"weight = {{ num_bits = {bits} }}"), QConfigError, "FXQ102", ["my.toml', line 4", "num_bits", said])
        for bits, said in [*((n, n) for n in ("0", "1", "33", "-8", "8.5")), ('"8"', "'8'"), ("true", "True")]
    ),
    (39, RANGE_TURNED, QConfigError, "FXQ102", ["activation"]),
    (39, RANGE_WITHOUT_0, QConfigError, "FXQ102", ["include 0"]),
    (39, NO_SUCH, QConfigError, "FXQ102", ["weight", "no_such"]),
    (40, rule('scheem = "int8"'), RecipeError, "FXQ103", ["line 4", "'scheem'"]),
    (40, 'ignroe = ["a"]\n', RecipeError, "FXQ103", ["line 2", "'ignroe'"]),
    (40, "[strict]\nunmached = true\n", RecipeError, "FXQ103", ["line 3", "'unmached'", "strict"]),
    (40, rule("weight = { bits = 8 }"), RecipeError, "FXQ103", ["line 4", "'bits'", "weight"]),
    (40, {"module_nmae": []}, RecipeError, "FXQ103", ["'module_nmae'"]),
    (41, "schema = 1\n", RecipeError, "FXQ101", ["line 2"]),
    (41, "a = \n", RecipeError, "FXQ101", ["line 2, column 5"]),
    (42, rule('scheme = "int8"\nweight = {}'), QConfigError, "FXQ102", ["scheme and weight"]),
    (42, rule(""), QConfigError, "FXQ102", ["neither"]),
    (44, CONV_AXIS_7, QConfigError, "FXQ102", ["axis 7", "'layer1.0'", "(4, 3, 1, 1)"]),
    (44, mapping("module_name", "layer1.1", channel(0)), QConfigError, "FXQ102", ["'layer1.1'", "(1,)"]),
    (44, rule("weight = { axis = 2 }"), QConfigError, "FXQ102", ["axis 2", "'head'", "(2, 4)"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "kind", "code", "named"),
    [row[1:] for row in ROWS],
    ids=[f"{i}-row{row[0]}" for i, row in enumerate(ROWS)],
)
def test_a_wrong_policy_is_refused_by_name(given, kind, code, named, tmp_path):
    is_recipe = isinstance(given, str) and "\n" in given
    with pytest.raises(kind) as caught:
        plan(recipe(tmp_path, given) if is_recipe else given)
    assert caught.value.code == code
    assert [name for name in named if name not in caught.value.message] == []


def test_row_33_gives_the_three_nearest_names():
    with pytest.raises(UnknownTargetError) as caught:
        plan(mapping("module_name", "layer1.00", STATIC))
    assert caught.value.hint == "did you mean 'layer1.0', 'layer2.0', 'layer1.1'?"


def test_row_34_a_regex_that_matches_everything_is_noticed():
    _, ledger = plan(mapping("module_name_regex", ".*", per_channel_dynamic_qconfig))
    assert [row.code for row in ledger.notices] == ["FXQ114"]
    assert "regex '.*' matches every call" in ledger.notices[0].reason


def test_row_36_a_catastrophic_regex_does_not_hang():
    started = time.perf_counter()
    for text in ("(a+)+$", "(a*)*b", "(a|aa)+$", "(.*)*x", "((a+)b?)+$"):
        with pytest.raises(RecipeError):
            plan(mapping("module_name_regex", text, STATIC))
    assert time.perf_counter() - started < 30.0


def test_row_37_lists_the_presets():
    with pytest.raises(QConfigError) as caught:
        plan(mapping("global", "int8"))
    assert "int8, int8-dynamic, int8-weight-only, int4-weight-only, float16, bfloat16, float8" in caught.value.hint


def test_row_37_an_observer_instance_is_refused_even_where_torch_lets_it_pass():
    qconfig = QConfig(MinMaxObserver, WEIGHT)._replace(activation=nn.Identity)
    plan(mapping("object_type", nn.Linear, qconfig))  # a class is fine
    smuggled = tuple.__new__(QConfig, (MinMaxObserver(), WEIGHT))
    with pytest.raises(QConfigError, match="activation is an instance of MinMaxObserver"):
        plan(mapping("global", smuggled))


def test_row_42_precedence_is_defined_and_can_be_asked_for(tmp_path):
    body = rule('scheme = "int8-dynamic"', '["head"]') + rule('scheme = "int8"', '["Linear"]')
    program, _ = plan(recipe(tmp_path, body))
    decision = next(decision for decision in program.plan if decision.op == "Linear")
    assert decision.mode == "dynamic"
    assert decision.why.startswith("rule 1 of recipe ")


@pytest.mark.parametrize("schema", ["2", "99"])
def test_row_43_a_newer_schema_is_named(tmp_path, schema):
    with pytest.raises(RecipeError, match=f"schema {schema} is newer than schema 1") as caught:
        plan(recipe(tmp_path, "frobnicate = 1\n", head=f"schema = {schema}\n"))
    assert caught.value.code == "FXQ104"


@pytest.mark.parametrize("head", ["", "schema = 0\n", 'schema = "1"\n', "schema = true\n", "schema = 1.5\n"])
def test_row_43_a_missing_or_wrong_schema_says_how_to_start(tmp_path, head):
    with pytest.raises(FxQuantError) as caught:
        plan(recipe(tmp_path, "", head=head))
    assert (caught.value.code, caught.value.hint) == ("FXQ102", "start with: schema = 1")


def test_row_45_what_the_engine_cannot_run_is_a_row_and_with_strict_an_error():
    qint8 = QConfig(MinMaxObserver.with_args(dtype=torch.qint8), WEIGHT)
    _, ledger = plan(mapping("module_name", "head", qint8))
    row = next(row for row in ledger.layers if row.module == "head")
    assert (row.code, row.effective) == ("FXQ204", "float32")
    assert row.reason.startswith("kept float because")
    with pytest.raises(BackendError) as caught:
        plan(mapping("module_name", "head", qint8), strict=True)
    assert caught.value.code == "FXQ501"
    assert "'head'" in caught.value.message


@pytest.mark.parametrize("content", [b"\xff\xfe", b"schema = 1\n\xe9"])
def test_a_recipe_that_is_no_utf8_is_named(tmp_path, content):
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"my\.toml") as caught:
        plan(path)
    assert caught.value.code == "FXQ101"


def test_a_recipe_that_is_missing_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path, "none.toml", "a\0b.toml"):
        with pytest.raises(RecipeError) as caught:
            plan(path)
        assert caught.value.code == "FXQ101"
        assert str(path) in caught.value.message
