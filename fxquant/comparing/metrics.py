"""What is asked of a model's outputs: accuracy and top 5 against labels, MSE and SQNR against float, or a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from fxquant.comparing.data import EvaluationData
from fxquant.comparing.joining import join
from fxquant.comparing.outputs import mse, scores_in, sqnr
from fxquant.errors import FxQuantError, MetricError, did_you_mean
from fxquant.ledger import Ledger
from fxquant.structure import copied

NAMES = {"accuracy": True, "top5": True, "sqnr": True, "mse": False}  # and whether higher is better
AGAINST_FLOAT = ("sqnr", "mse")


@dataclass(frozen=True, slots=True)
class Metric:
    """One number for the outputs of a model on all batches. `function` is None for the metrics in NAMES."""

    name: str
    is_higher_better: bool
    function: Callable[[Any, Any], Any] | None = None

    @property
    def needs_reference(self) -> bool:
        """Is it measured against the float model's outputs?"""
        return self.function is None and self.name in AGAINST_FLOAT

    def value(
        self, outputs: Sequence[Any], data: EvaluationData, reference: Sequence[Any], ledger: Ledger
    ) -> float | None:
        """The metric of these outputs, one of each batch; None where nothing of it is a tensor of floats.

        MetricError: FXQ137 where it does not suit the data, FXQ138 for no finite number, FXQ139 where it raises.
        """
        if self.function is not None:
            return _of_function(self, outputs, data, ledger)
        if self.name == "sqnr":
            return sqnr(reference, outputs)
        if self.name == "mse":
            return mse(reference, outputs)
        return _share_right(outputs, data, most=5 if self.name == "top5" else 1, name=self.name)


def read_metric(
    given: Any, data: EvaluationData, example: Any, ledger: Ledger, *, is_higher_better: bool | None = None
) -> Metric:
    """The metric that was asked for; None asks for accuracy where the labels are classes, else for SQNR.

    Args:
        given: a name in NAMES, a function, or None.
        data: what it will be computed on.
        example: the float model's output on the first batch.
        ledger: gets notice FXQ141 where something had to be taken for granted.
        is_higher_better: of a function; names know it.

    Raises:
        MetricError: FXQ137 for what is no metric, or none for this data.
    """
    if given is None:
        given = _default(data, example, ledger)
    if isinstance(given, str):
        return _named(given, data, is_higher_better)
    if not callable(given):
        told = f"metric={given!r} (a {type(given).__name__}) is no metric"
        raise MetricError("FXQ137", told, hint=f"a function metric(outputs, labels), or one of {', '.join(NAMES)}")
    name = getattr(given, "__name__", type(given).__name__)
    name = "metric" if name == "<lambda>" else name
    if is_higher_better is None:
        ledger.notice(
            "FXQ141",
            f"'{name}' is taken to be better where it is higher",
            hint="say is_higher_better=True, or False for a loss",
        )
    return Metric(name, is_higher_better is not False, given)


def _named(name: str, data: EvaluationData, is_higher_better: bool | None) -> Metric:
    if name not in NAMES:
        raise MetricError("FXQ137", f"no metric is called {name!r}", hint=did_you_mean(name, NAMES))
    if is_higher_better not in (None, NAMES[name]):
        told = f"{name} is better where it is {'higher' if NAMES[name] else 'lower'}, not the other way"
        raise MetricError("FXQ137", f"is_higher_better={is_higher_better}: {told}", hint="leave it out")
    if name not in AGAINST_FLOAT and not _has_labels(data):
        raise MetricError(
            "FXQ137",
            f"{name} needs labels, and the batches are no (inputs, labels) pairs",
            hint="give such pairs, or metric='sqnr', which needs none, or a function metric(outputs, batch)",
        )
    return Metric(name, NAMES[name])


def _default(data: EvaluationData, example: Any, ledger: Ledger) -> str:
    if not _has_labels(data):
        return "sqnr"
    labels, scores = data.label(0), scores_in(example)
    if _are_classes(labels) and scores is not None and scores.dim() == labels.dim() + 1:
        return "accuracy"
    ledger.notice(
        "FXQ141",
        "the labels are no classes of the outputs: outputs are compared with the float model's (SQNR)",
        hint="give a function metric(outputs, labels)",
    )
    return "sqnr"


def _has_labels(data: EvaluationData) -> bool:
    """Pairs, that the reader saw or that a forward_fn takes apart."""
    if data.is_labelled:
        return True
    first = data.batches[0]
    return data.forward_fn is not None and isinstance(first, (tuple, list)) and len(first) == 2


def _are_classes(labels: Any) -> bool:
    return isinstance(labels, torch.Tensor) and not labels.is_floating_point() and labels.dtype is not torch.bool


def _share_right(outputs: Sequence[Any], data: EvaluationData, *, most: int, name: str) -> float:
    """Share of the labels that are among the `most` highest scores; classes are dimension 1 of the scores.

    NaN among the scores has no order: such a row is wrong.
    """
    right = count = 0
    for index, output in enumerate(outputs):
        labels, scores = data.label(index), scores_in(output)
        if scores is None or not _are_classes(labels) or (scores.shape[0], *scores.shape[2:]) != labels.shape:
            raise _unsuited(name, scores, labels, index)
        picked = scores.topk(min(most, scores.shape[1]), dim=1).indices
        is_right = (picked == labels.to(picked.device).unsqueeze(1)).any(1) & ~scores.isnan().any(1)
        right += int(is_right.sum())
        count += labels.numel()
    return right / count


def _unsuited(name: str, scores: Any, labels: Any, index: int) -> MetricError:
    told = " and ".join(
        f"{what} {list(tensor.shape)} ({str(tensor.dtype).removeprefix('torch.')})"
        if isinstance(tensor, torch.Tensor)
        else f"{what} that are no tensor"
        for what, tensor in (("scores", scores), ("labels", labels))
    )
    return MetricError(
        "FXQ137",
        f"{name} needs scores (N, classes) and whole-number labels (N); batch {index} has {told}",
        hint="give a function metric(outputs, labels) that knows your outputs",
    )


def _of_function(metric: Metric, outputs: Sequence[Any], data: EvaluationData, ledger: Ledger) -> float:
    """Called once on all rows where the batches can be joined; else once a batch, and their mean by rows."""
    seconds = [data.label(index) if _has_labels(data) else data.batches[index] for index in range(len(outputs))]
    whole, second = join(outputs, data.rows), join(seconds, data.rows)
    if whole is not None and second is not None:
        return _called(metric, whole, second)
    ledger.notice(
        "FXQ141", f"the batches cannot be joined: '{metric.name}' is the mean of its values for each, weighted by rows"
    )
    pairs = zip(outputs, seconds, strict=True)  # copies: a metric may write to what it gets
    values = [_called(metric, copied(output), copied(second)) for output, second in pairs]
    return sum(value * rows for value, rows in zip(values, data.rows, strict=True)) / sum(data.rows)


def _called(metric: Metric, outputs: Any, second: Any) -> float:
    function = metric.function
    assert function is not None
    try:
        with torch.no_grad():
            found = function(outputs, second)
    except FxQuantError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise MetricError(
            "FXQ139",
            f"metric '{metric.name}' raised {type(error).__name__}: {error}",
            hint="it is called as metric(outputs, labels), or metric(outputs, batch) where there are no labels",
        ) from error
    return number(found, metric.name)


def number(found: Any, name: str) -> float:
    """The one finite number that a metric gave; else FXQ138."""
    value = found.item() if isinstance(found, torch.Tensor) and found.numel() == 1 else found
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise MetricError(
            "FXQ138",
            f"metric '{name}' gave {_told(found)}, which is no finite number",
            hint="return a float; a loss of each row can be averaged: losses.mean()",
        )
    return float(value)


def _told(found: Any) -> str:
    if isinstance(found, torch.Tensor) and found.numel() != 1:
        return f"a tensor of shape {list(found.shape)}"
    text = repr(found)
    return f"{text if len(text) <= 60 else text[:57] + '...'} (a {type(found).__name__})"
