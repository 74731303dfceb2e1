"""compare(): the same batches for every candidate, a row for each, and the reason where there is no number."""

from __future__ import annotations

import math
from itertools import count, groupby

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.comparing.timing import Timing, interleaved_within
from fxquant.errors import CalibrationError, ComparisonError, EmptyDataError, FxQuantError, MetricError, UsageError
from support.asserts import untouched
from support.comparing import Classifier, classifier, compared, full, labelled, rows

with torch_ao.quiet():
    from torch.ao.quantization import get_default_qconfig_mapping


def test_the_float_model_comes_first_then_the_candidates_in_their_order():
    found = full()
    assert [row.name for row in found] == [
        "float",
        "int8 on x86",
        "dynamic on x86",
        "weights",
        "same",
        "<b>$x_1$</b> on x86",
    ]
    assert [row.kind for row in found] == ["float", "compiled", "compiled", "compiled", "module", "failed"]
    assert found["int8 on x86"].target == "x86" and len(found) == 6


def test_each_number_is_the_one_that_its_own_function_gives():
    model = classifier()
    made = fxquant.compile(model, "int8", calibration_data=[rows(seed=7)], target="x86")
    row, data = compared()["int8 on x86"], labelled()
    inputs = torch.cat([x for x, _ in data])
    assert row.metric == fxquant.evaluate(made, data) == pytest.approx(0.75, abs=0.05)
    assert row.sqnr_db == pytest.approx(fxquant.sqnr_db(model(inputs).detach(), made(inputs)))
    assert row.int8_share == 1.0 and row.compile_seconds is not None and row.compile_seconds > 0


def test_the_size_is_the_files_and_the_state_dicts(tmp_path):
    found = full()
    made = fxquant.compile(classifier(), "int8-weight-only", calibration_data=[rows(seed=7)], target="x86")
    size = made.save(tmp_path / "x.safetensors").stat().st_size
    assert (found["weights"].size_bytes, found["weights"].size_of) == (pytest.approx(size, rel=0.02), "file")
    assert (found["float"].size_bytes, found["float"].size_of) == (4 * (4 * 16 + 16 + 16 * 3 + 3), "state_dict")


def test_peak_memory_is_what_one_call_holds():
    class Wide(nn.Module):
        def forward(self, x):
            return x.repeat(1, 100).sum(1, keepdim=True)

    found = fxquant.compare(Wide().eval(), {"same": lambda made: made}, rows(), batch_sizes=(8,), seconds=0)
    held = 8 * 400 * 4
    assert held <= found["float"].peak_bytes < held + 1000
    assert found["same"].peak_bytes == found["float"].peak_bytes


def test_the_share_of_macs_in_int8_is_of_the_macs_not_of_the_layers():
    policy = get_default_qconfig_mapping("x86").set_module_name("head", None)
    found = compared({"body only": policy, "weights": "int8-weight-only"})
    assert found["body only on x86"].int8_share == pytest.approx(4 * 16 / (4 * 16 + 16 * 3))
    assert found["weights on x86"].int8_share == 0.0 == found["float"].int8_share


def test_a_shuffled_loader_gives_every_candidate_the_same_batches():
    x = rows()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, torch.arange(64)), batch_size=8, shuffle=True
    )
    seen = []

    def order(outputs, labels):
        seen.append(labels.tolist())
        return 1.0

    found = compared({"a": "int8", "b": "int8-dynamic", "c": lambda made: made}, loader, order, is_higher_better=True)
    assert len(seen) == 4 and all(labels == seen[0] for labels in seen) and seen[0] != sorted(seen[0])
    assert found["c"].sqnr_db == math.inf


def test_a_generator_that_can_be_read_once_serves_all_candidates():
    found = compared(
        {"a": "int8", "b": "int8"},
        (batch for batch in labelled()),
        calibration_data=(batch for batch in [rows(seed=7)]),
    )
    assert found["a on x86"].metric == found["b on x86"].metric and found["a on x86"].failure is None


def test_an_endless_loader_stops_with_a_notice():
    found = compared(data=(labelled()[0] for _ in count()), max_batches=3)
    assert [row.reason.split(";")[0] for row in found.notices if row.code == "FXQ319"] == [
        "data was read up to max_batches=3"
    ]


def test_empty_data_and_data_that_fails_are_errors_before_anything_is_compiled():
    def broken():
        raise OSError("gone")
        yield

    def never(model):
        raise AssertionError("it was made")

    for data, kind, code in ((iter(()), EmptyDataError, "FXQ317"), (broken(), CalibrationError, "FXQ312")):
        with pytest.raises(kind) as caught:
            compared({"a": never}, data)
        assert caught.value.code == code


def test_a_candidate_that_fails_says_why_and_the_others_go_on():
    def raising(model):
        raise RuntimeError("no such luck")

    class Untraceable(nn.Module):
        def forward(self, x):
            return (x, x)

    found = compared(
        {
            "unknown": "int9",
            "raises": raising,
            "nothing": lambda model: None,
            "option": {"qconfig_mapping": "int8", "taget": "x86"},
            "tuple": Untraceable().eval(),
            "shape": nn.Linear(4, 2).eval(),
            "waiting": fxquant.compile(classifier(), "int8"),
            "broken": nn.Linear(5, 3).eval(),
            "good": "int8",
        }
    )
    codes = {row.name.removesuffix(" on x86"): row.failure.code for row in found if row.failure is not None}
    assert codes == {
        "unknown": "FXQ102",
        "raises": "FXQ140",
        "nothing": "FXQ136",
        "option": "FXQ136",
        "tuple": "FXQ120",
        "shape": "FXQ120",
        "waiting": "FXQ401",
        "broken": "FXQ140",
    }
    assert found["raises"].failure.message == "it raised RuntimeError: no such luck"
    assert found["option on x86"].failure.hint.startswith("did you mean 'target'")  # the nearest first
    assert "its output on batch 0 is ([16, 4], [16, 4]), the float model's is [16, 3]" in found["tuple"].failure.message
    assert found["good on x86"].metric is not None and found["broken"].metric is None


def test_when_all_fail_it_is_an_error_with_each_reason():
    with pytest.raises(ComparisonError) as caught:
        compared({"a": "int9", "b": nn.Linear(4, 2).eval()})
    assert caught.value.code == "FXQ140" and isinstance(caught.value.__cause__, FxQuantError)
    assert "'a on x86': FXQ102" in caught.value.message and "'b': FXQ120" in caught.value.message


def test_an_interrupt_is_no_failed_candidate():
    def interrupted(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compared({"a": interrupted, "b": "int8"})


@pytest.mark.parametrize(
    "candidates",
    [{}, [], None, "int8", {"": "int8"}, {" \n": "int8"}, {3: "int8"}, [("a", "int8"), ("a", "int8")],
     [("a b", "int8"), ("a  b", "int8")], {"float": nn.Linear(4, 3)}, ["int8"], {"int8": "int8", "int8 on x86": nn.Linear(4, 3)}],
)  # fmt: skip
def test_names_that_do_not_tell_candidates_apart_are_refused(candidates):
    with pytest.raises(ComparisonError) as caught:
        fxquant.compare(classifier(), candidates, labelled(), targets=["x86"])
    assert caught.value.code == "FXQ136"


def test_targets_cross_what_is_compiled_here_and_nothing_else(tmp_path):
    ready = fxquant.compile(classifier(), "int8-dynamic", target="fbgemm")
    candidates = {"a": "int8", "own": {"qconfig_mapping": "int8", "target": "fbgemm"}, "ready": ready}
    found = compared(candidates, targets=["x86", "onednn", "nope"])
    assert [row.name for row in found][1:] == ["a on x86", "a on onednn", "a on nope", "own", "ready"]
    assert [row.target for row in found][1:] == ["x86", "onednn", "", "fbgemm", "fbgemm"]
    assert found["a on nope"].failure.code == "FXQ109"
    with pytest.raises(ComparisonError, match="'a on x86' stands for two candidates"):
        compared({"a": "int8"}, targets=["x86", "x86"])


def test_a_recipe_a_mapping_and_options_for_all_are_understood(tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text('schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = "int8"\n')
    candidates = {"recipe": recipe, "text": str(recipe), "mapping": get_default_qconfig_mapping("x86")}
    found = compared(candidates, compile_options={"target": "fbgemm"})
    assert [row.failure for row in found] == [None] * 4
    assert [(row.name, row.target, row.int8_share) for row in found][1:] == [
        ("recipe", "fbgemm", 1.0),
        ("text", "fbgemm", 1.0),
        ("mapping", "fbgemm", 1.0),
    ]


def test_a_trainable_model_and_a_saved_one_are_candidates(tmp_path):
    made = fxquant.compile(classifier(), "int8", calibration_data=rows(seed=7), target="x86")
    loaded = fxquant.load(made.save(tmp_path / "x.safetensors"))
    captured = fxquant.compress(classifier(), [])
    found = compared({"captured": captured.eval(), "loaded": loaded})
    assert (found["captured"].kind, found["captured"].sqnr_db, found["captured"].int8_share) == (
        "module",
        math.inf,
        0.0,
    )
    assert (found["loaded"].kind, found["loaded"].int8_share) == ("compiled", 1.0)
    assert any(layer.own_sqnr_db is not None for layer in found["loaded"].layers)


def test_raw_fx_is_a_candidate_whose_int8_macs_are_seen():
    raw = lambda model: torch_ao.raw_quantize(model, torch_ao.raw_mapping("x86"), (rows(),), [(rows(seed=7),)])  # noqa: E731
    found = compared({"raw": raw})
    assert found["raw"].kind == "module" and found["raw"].int8_share == 1.0 and found["raw"].sqnr_db > 25


def test_a_candidate_that_gives_nan_has_its_own_error_and_the_metric_is_not_blamed():
    class Broken(Classifier):
        def forward(self, x):
            return super().forward(x) * math.nan

    found = compared(
        {"nan": Broken().eval(), "int8": "int8"}, metric=lambda outputs, labels: outputs.mean(), is_higher_better=True
    )
    assert found["nan"].failure.code == "FXQ138" and found["int8 on x86"].failure is None


@pytest.mark.parametrize(
    ("metric", "code"), [(lambda o, y: math.nan, "FXQ138"), (lambda o, y: 1 / 0, "FXQ139"), ("acc", "FXQ137")]
)
def test_a_metric_that_fails_on_the_float_model_is_an_error(metric, code):
    with pytest.raises(MetricError) as caught:
        compared(metric=metric, is_higher_better=True) if callable(metric) else compared(metric=metric)
    assert caught.value.code == code


def test_a_float_model_that_fails_on_the_data_is_told_as_that():
    with pytest.raises(CalibrationError) as caught:
        compared(data=torch.ones(8, 5))
    assert caught.value.code == "FXQ304" and isinstance(caught.value.__cause__, RuntimeError)


def test_a_compiled_model_is_no_float_model_and_neither_is_a_class():
    made = fxquant.compile(classifier(), "int8-dynamic")
    for model, code in ((made, "FXQ230"), (Classifier, "FXQ201"), (torch.relu, "FXQ201")):
        with pytest.raises(FxQuantError) as caught:
            fxquant.compare(model, {"a": "int8"}, labelled())
        assert caught.value.code == code


def test_a_function_that_does_not_say_which_way_is_better_is_noticed():
    found = compared(metric=lambda outputs, labels: 1.0)
    assert found.is_higher_better
    assert [row.code for row in found.notices if "higher" in row.reason] == ["FXQ141"]
    with pytest.raises(MetricError, match="accuracy is better where it is higher"):
        compared(metric="accuracy", is_higher_better=False)


def test_without_labels_sqnr_decides_and_the_float_model_is_the_reference():
    found = compared({"int8": "int8", "weights": "int8-weight-only"}, rows())
    assert found.metric == "sqnr" and found["float"].metric == math.inf
    assert found["int8 on x86"].metric == found["int8 on x86"].sqnr_db
    assert "sqnr" not in str(found).splitlines()[0] and "SQNR" in str(found).splitlines()[0]


def test_calibrating_on_the_test_rows_is_noticed_and_on_others_is_not():
    notices = [row for row in compared(calibration_data=None).notices if row.code == "FXQ318"]
    assert [row.reason.split(" are")[0] for row in notices] == ["64 of 64 test rows"]
    assert not [row for row in full().notices if row.code == "FXQ318"]


def test_rows_are_repeated_for_a_batch_larger_than_the_data_and_it_is_said():
    found = compared(data=labelled(6, 4), batch_sizes=(2, 6, 32), seconds=0.05)
    assert found.settings == ((2, 1), (6, 1), (32, 1))
    assert [row.reason for row in found.notices if row.code == "FXQ141"] == [
        "the data has 6 rows: they are repeated for batches of 32"
    ]


def test_a_candidate_that_insists_on_its_batch_size_is_timed_where_it_can_run():
    class Fixed(Classifier):
        def forward(self, x):
            return super().forward(x.reshape(16, 4))

    model = Fixed()
    model.load_state_dict(classifier().state_dict())
    found = compared({"fixed": model.eval()}, batch_sizes=(4, 16), seconds=0.05)
    assert [latency.setting for latency in found["fixed"].latencies] == [(16, 1)]
    assert found["fixed"].notes[0].startswith("not timed at batch 4: RuntimeError")
    assert len(found["float"].latencies) == 2


@pytest.mark.parametrize(
    "options",
    [{"batch_sizes": (0,)}, {"batch_sizes": "16"}, {"batch_sizes": (1.5,)}, {"threads": (0,)}, {"threads": True},
     {"seconds": -1}, {"seconds": math.nan}, {"seconds": "5"}, {"max_batches": 0}],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(UsageError) as caught:
        compared(**options)
    assert caught.value.code == "FXQ111" and next(iter(options)) in caught.value.message


def test_the_callers_model_and_world_are_untouched_also_when_candidates_misbehave():
    model, mine = classifier(), classifier()

    def rude(made):
        torch.manual_seed(9)
        torch.set_num_threads(3)
        torch.set_grad_enabled(False)
        with torch.no_grad():
            made.head.weight.zero_()
        return made.train()

    with untouched(model), untouched(mine):
        found = fxquant.compare(
            model, {"rude": rude, "mine": mine, "bad": "int9"}, labelled(), threads=(2,), seconds=0.05
        )
    assert found["rude"].failure is None and "training mode" in found["rude"].notes[0]
    assert found["mine"].sqnr_db == math.inf


def test_the_same_comparison_twice_has_the_same_numbers():
    first, second = (compared({"int8": "int8", "w": "int8-weight-only"}) for _ in range(2))
    keys = ("name", "metric", "sqnr_db", "size_bytes", "peak_bytes", "int8_share", "layers")
    assert [[getattr(row, key) for key in keys] for row in first] == [
        [getattr(row, key) for key in keys] for row in second
    ]


def test_candidates_take_turns_and_a_slow_one_is_still_timed_often_enough():
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = interleaved_within(calls, seconds=0.0, threads=1)
    turns = [name for name, _ in groupby(order)]
    assert turns == ["a", "b", "c", "a", "b", "c", "b", "a", "b", "c"]  # warmed up, then there, back and there again
    assert all(len(timing.seconds) == 3 for timing in found.values())
    assert interleaved_within({}, seconds=0.1, threads=1) == {}


def test_the_spread_is_a_quartile_on_each_side():
    assert Timing((4.0, 1.0, 3.0, 2.0, 5.0)).quartiles == (2.0, 4.0)
    assert Timing((2.0,)).quartiles == (2.0, 2.0)


def test_the_share_of_macs_is_not_known_where_a_part_was_not_looked_into():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.inner(x))

    options = {"compile_options": {"leaf_modules": ["inner"]}, "calibration_data": rows(seed=7), "seconds": 0}
    found = fxquant.compare(Nested().eval(), {"int8": "int8", "float16": "float16"}, rows(), targets="x86", **options)
    assert found["int8 on x86"].int8_share is None and found["float16 on x86"].int8_share == 0.0


@pytest.mark.parametrize("as_batch", [lambda x, y: {"x": x, "scale": y}, lambda x, y: ((x,), {"scale": y})])
def test_keywords_reach_every_candidate_and_its_layers_are_measured(as_batch):
    class Scaled(Classifier):
        def forward(self, x, *, scale):
            return {"scores": super().forward(x) * scale, "none": None}

    batches = [as_batch(rows(8, seed), torch.full((8, 1), 2.0)) for seed in range(2)]
    found = fxquant.compare(Scaled().eval(), {"int8": "int8"}, batches, targets="x86", seconds=0.05, batch_sizes=(3,))
    row = found["int8 on x86"]
    assert row.notes == () and row.sqnr_db > 20 and len(row.latencies) == 1
    assert any(layer.own_sqnr_db is not None for layer in row.layers)


def test_the_float_model_itself_can_be_a_candidate_too():
    model = classifier()
    found = fxquant.compare(model, {"again": model}, labelled(), seconds=0)
    assert (found["again"].kind, found["again"].sqnr_db, found["float"].sqnr_db) == ("module", math.inf, None)


def test_a_metric_that_writes_to_what_it_gets_spoils_nothing():
    def rude(outputs, labels):
        labels.zero_()
        return float(outputs.mul_(0.0).sum())

    data = [(rows(3), torch.ones(3)), (rows(2).reshape(1, 2, 4), torch.ones(1))]  # cannot be joined
    before = [(x.clone(), y.clone()) for x, y in data]
    found = compared({"same": lambda made: made}, data, rude, is_higher_better=True)
    assert found["same"].sqnr_db == math.inf and found["float"].metric == 0.0
    assert all(x.equal(a) and y.equal(b) for (x, y), (a, b) in zip(data, before, strict=True))


def test_what_one_candidate_does_to_the_world_the_next_does_not_meet():
    met = []

    def rude(model):
        torch.manual_seed(9)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return model

    def looks(model):
        met.append((torch.initial_seed(), torch.get_default_dtype(), torch.is_grad_enabled()))
        return model

    compared({"first": looks, "rude": rude, "last": looks})
    assert met[0] == met[1] and met[0][2]


def test_calibration_data_that_is_not_read_to_its_end_is_noticed_too():
    found = compared(calibration_data=(rows(seed=7) for _ in count()), max_batches=4)
    told = [row.reason.split(" up")[0] for row in found.notices if row.code == "FXQ319"]
    assert told == ["calibration_data was read"]
