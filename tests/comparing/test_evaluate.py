"""evaluate(): one honest number, whatever the metric, the data and the model are; and no wrong one."""

from __future__ import annotations

import math
from itertools import repeat

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import CalibrationError, ContractError, EmptyDataError, FxQuantWarning, MetricError, UsageError
from support.asserts import untouched
from support.comparing import classifier, labelled, rows


def right(outputs, labels):
    return (outputs.argmax(1) == labels).float().mean()


def compiled(**options):
    return fxquant.compile(classifier(), "int8", calibration_data=rows(seed=7), target="x86", **options)


def test_accuracy_is_the_share_of_rows_that_are_right_however_they_are_split():
    whole, split = labelled(size=64), labelled(size=10)
    assert fxquant.evaluate(classifier(), whole) == fxquant.evaluate(classifier(), split, "accuracy") == 0.75
    assert fxquant.evaluate(classifier(), whole[0]) == 0.75  # one pair by itself is one batch
    assert fxquant.evaluate(classifier(), whole, "top5") == 1.0


def test_a_function_sees_the_rows_of_all_batches_at_once():
    seen = []

    def spread(outputs, labels):
        seen.append((outputs.shape, labels.shape))
        return float(outputs.std())

    assert fxquant.evaluate(classifier(), labelled(size=10), spread) == pytest.approx(
        float(classifier()(rows()).detach().std()), rel=1e-6
    )
    assert seen == [((64, 3), (64,))]
    assert fxquant.evaluate(classifier(), labelled(size=10), right) == 0.75


def test_batches_that_cannot_be_joined_give_the_mean_by_rows_and_say_so():
    class Pooled(nn.Module):
        def forward(self, x):
            return x * 2

    data = [torch.ones(1, 3), torch.zeros(3, 2)]
    with pytest.warns(FxQuantWarning, match="FXQ141 the batches cannot be joined"):
        found = fxquant.evaluate(Pooled().eval(), data, lambda outputs, batch: outputs.mean())
    assert found == 2.0 * 1 / 4


def test_without_labels_the_function_gets_the_batch():
    batch = {"x": rows()}
    seen = []
    fxquant.evaluate(classifier(), [batch], lambda outputs, given: seen.append(given["x"].shape) or 1.0)
    assert seen == [(64, 4)]


def test_sqnr_and_mse_are_against_the_float_model():
    model = classifier()
    made = fxquant.compile(model, "int8", calibration_data=rows(seed=7), target="x86")
    with torch.no_grad():
        expected, found = model(rows()), made(rows())
    assert fxquant.evaluate(made, rows()) == fxquant.sqnr_db(expected, found)
    assert fxquant.evaluate(made, list(rows().split(9)), "sqnr") == pytest.approx(fxquant.sqnr_db(expected, found))
    assert fxquant.evaluate(made, rows(), "mse", reference=model) == pytest.approx(
        float((expected - found).square().mean())
    )
    assert fxquant.evaluate(model, rows(), reference=model) == math.inf


def test_a_float_model_has_no_sqnr_by_itself():
    with pytest.raises(MetricError) as caught:
        fxquant.evaluate(classifier(), rows())
    assert caught.value.code == "FXQ137" and "reference=" in caught.value.hint


@pytest.mark.parametrize(
    ("metric", "code"),
    [
        (lambda outputs, labels: math.nan, "FXQ138"),
        (lambda outputs, labels: torch.tensor(math.inf), "FXQ138"),
        (lambda outputs, labels: "97 %", "FXQ138"),
        (lambda outputs, labels: None, "FXQ138"),
        (lambda outputs, labels: outputs, "FXQ138"),
        (lambda outputs, labels: True, "FXQ138"),
        (lambda outputs, labels: 1 / 0, "FXQ139"),
        (lambda outputs: 1.0, "FXQ139"),
        ("acuracy", "FXQ137"),
        (0.5, "FXQ137"),
    ],
)
def test_a_metric_that_gives_no_number_is_refused(metric, code):
    model = classifier()
    with untouched(model), pytest.raises(MetricError) as caught:
        fxquant.evaluate(model, labelled(), metric)
    assert caught.value.code == code


def test_the_error_of_a_metric_is_chained():
    with pytest.raises(MetricError) as caught:
        fxquant.evaluate(classifier(), labelled(), lambda outputs, labels: 1 / 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("value", [torch.tensor([0.5]), 0.5, torch.tensor(0.5, dtype=torch.float64)])
def test_one_number_in_any_wrapping_is_a_number(value):
    assert fxquant.evaluate(classifier(), labelled(), lambda outputs, labels: value) == 0.5


@pytest.mark.parametrize(
    "labels", [torch.zeros(64), torch.zeros(63, dtype=torch.long), torch.zeros(64, 1, dtype=torch.long)]
)
def test_labels_that_do_not_suit_accuracy_are_refused_with_their_shape(labels):
    with pytest.raises(MetricError) as caught:
        fxquant.evaluate(classifier(), [(rows(), labels)], "accuracy")
    assert caught.value.code == "FXQ137" and str(list(labels.shape)) in caught.value.message


def test_accuracy_of_each_place_of_a_sequence():
    class Tagger(nn.Module):
        def forward(self, x):
            return x

    scores = torch.eye(3).repeat(2, 1, 1)  # (2, classes, 3)
    assert fxquant.evaluate(Tagger().eval(), [(scores, torch.tensor([[0, 1, 2], [0, 1, 1]]))], "accuracy") == 5 / 6


@pytest.mark.parametrize("data", [[], iter(()), torch.empty(0, 4), [rows(0), rows(0)]])
def test_empty_data_is_told_as_that(data):
    with pytest.raises(EmptyDataError) as caught:
        fxquant.evaluate(compiled(), data)
    assert caught.value.code == "FXQ317"


def test_an_endless_loader_stops_with_a_warning():
    with pytest.warns(FxQuantWarning, match="FXQ319 data was read up to max_batches=3"):
        assert fxquant.evaluate(classifier(), repeat(labelled(size=64)[0]), max_batches=3) == 0.75


def test_data_that_fails_is_its_own_error():
    def broken():
        yield labelled()[0]
        raise OSError("sample 17 is truncated")

    with pytest.raises(CalibrationError) as caught:
        fxquant.evaluate(classifier(), broken())
    assert caught.value.code == "FXQ312" and caught.value.message.startswith("the data failed at batch 1")


@pytest.mark.parametrize("bad", [3, "text"[:0] or None])
def test_what_holds_no_batches_is_refused(bad):
    with pytest.raises(UsageError) as caught:
        fxquant.evaluate(classifier(), bad)
    assert (caught.value.code, caught.value.message.split()[0]) == ("FXQ111", "data")


def test_a_loader_that_fills_one_buffer_again_and_again_is_read_right():
    def reused():
        buffer = torch.empty(16, 4)
        for x, y in labelled():
            buffer.copy_(x)
            yield buffer, y

    assert fxquant.evaluate(classifier(), reused()) == 0.75


def test_a_model_that_writes_to_its_input_does_not_spoil_the_data():
    class Writer(nn.Module):
        def forward(self, x):
            return x.mul_(2.0)

    data = [(torch.eye(3), torch.arange(3))]
    assert fxquant.evaluate(Writer().eval(), data) == 1.0
    assert data[0][0].equal(torch.eye(3))


def test_a_model_in_training_mode_is_evaluated_in_eval_mode_and_stays_as_it_was():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9), nn.BatchNorm1d(3)).train()
    with untouched(model), pytest.warns(FxQuantWarning, match="FXQ141 the model is in training mode"):
        found = fxquant.evaluate(model, labelled())
    assert found == fxquant.evaluate(model.eval(), labelled())


def test_buffers_that_calls_change_are_put_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return x

    model = Counting().eval()
    made = fxquant.compile(model, "int8-dynamic", example_inputs=rows())
    for each in (model, made):
        fxquant.evaluate(each, [(torch.eye(3), torch.arange(3))])
    assert float(model.calls) == 0.0 == float(made.graph_module.calls)


def test_a_model_that_still_calibrates_is_not_fed_the_test_data():
    waiting = fxquant.compile(classifier(), "int8")
    with pytest.raises(ContractError) as caught:
        fxquant.evaluate(waiting, labelled())
    assert caught.value.code == "FXQ401"
    with pytest.raises(fxquant.FxQuantError, match="FXQ301"):
        waiting.convert()


def test_forward_fn_settles_any_shape_of_batch():
    data = [{"picture": x, "label": y} for x, y in labelled()]
    found = fxquant.evaluate(
        classifier(),
        data,
        lambda outputs, batch: right(outputs, batch["label"]),
        forward_fn=lambda model, batch: model(batch["picture"]),
    )
    assert found == 0.75
    pairs = [([x], y) for x, y in labelled()]
    assert fxquant.evaluate(classifier(), pairs, forward_fn=lambda model, batch: model(batch[0][0])) == 0.75


def test_a_forward_fn_does_not_hide_that_rows_were_calibrated_on():
    made = compiled()
    data = [{"picture": torch.cat([rows(4, seed=7), rows(4)])}]
    fxquant.evaluate(
        made, data, "sqnr", reference=classifier(), forward_fn=lambda model, batch: model(batch["picture"])
    )
    assert [row.reason.split(" are")[0] for row in made.ledger.notices if row.code == "FXQ318"] == ["4 of 8 test rows"]


def test_labels_that_are_no_classes_give_sqnr():
    made = fxquant.compile(classifier(), "int8-dynamic")
    pairs = [(rows(), torch.zeros(64, 3))]
    assert fxquant.evaluate(made, pairs, reference=classifier()) == fxquant.evaluate(
        made, rows(), reference=classifier()
    )


def test_grad_mode_threads_and_random_numbers_are_the_callers():
    model = classifier()
    with untouched(model), torch.enable_grad():
        fxquant.evaluate(model, torch.utils.data.DataLoader(rows(), shuffle=True), reference=model)
        assert torch.is_grad_enabled()


def test_scores_that_are_nan_are_wrong():
    class Given(nn.Module):
        def forward(self, x):
            return x

    scores = torch.tensor([[math.nan, math.nan], [math.nan, 1.0], [0.0, 1.0]])
    assert fxquant.evaluate(Given().eval(), [(scores, torch.tensor([0, 0, 1]))]) == 1 / 3
