"""Distillation: a student learns to give what a teacher gives, in its logits and at named modules inside.

    loss = α · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)) + (1 − α) · CE(z_s, y) + Σ w_f · MSE(f_s, f_t)

The soft part is Hinton, Vinyals, Dean 2015 ("Distilling the knowledge in a neural network"): T² keeps its gradients at
the size of the hard part's, whatever T is. The features are Romero et al. 2015 (FitNets), without a regressor.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.arguments import example_call
from fxquant.errors import FxQuantError, SemanticsError, UsageError
from fxquant.fork import fork
from fxquant.training.features import Taps, refusal

TEMPERATURE, ALPHA = 4.0, 0.9


class Distillation:
    """A loss for a training loop: `loss(student, inputs, labels)`. The teacher is a frozen copy in eval mode.

    Args:
        teacher: a float model, plain or captured. It is copied, so that nothing can train it; training the one that
            was handed in, by accident, is FXQ315 at the next call.
        temperature: T > 0; the softer, the more the small logits tell.
        alpha: share of the soft part, 0 to 1, where labels are given; without labels it is all soft.
        features: names of modules → weights of their mean squared errors. A name means the module of the user's model.
        logits: takes the logits out of an output that is no tensor.
        class_dim: which dimension of the logits holds the classes.

    Raises:
        UsageError: FXQ127 for values that mean nothing, a student that is (or shares weights with) the teacher, and
            logits that do not fit; FXQ128 for a feature that has no value.
    """

    def __init__(
        self,
        teacher: nn.Module,
        temperature: float = TEMPERATURE,
        alpha: float = ALPHA,
        features: Mapping[str, float] | None = None,
        *,
        logits: Callable[[Any], Any] | None = None,
        class_dim: int = -1,
    ) -> None:
        if not isinstance(teacher, nn.Module):
            raise _misuse(f"teacher is {type(teacher).__name__}", "give an nn.Module")
        _check_number("temperature", temperature, low=0.0, is_open=True)
        _check_number("alpha", alpha, low=0.0, high=1.0)
        if features is not None and not isinstance(features, Mapping):
            raise _misuse(f"features is {type(features).__name__}", "give a dict: names of modules and their weights")
        if logits is not None and not callable(logits):
            raise _misuse(f"logits={logits!r:.80}", "give a function of the output, or nothing")
        if isinstance(class_dim, bool) or not isinstance(class_dim, int):
            raise _misuse(f"class_dim={class_dim!r:.80}", "give a dimension of the logits, such as -1")
        self.features = dict(features or {})
        for name, weight in self.features.items():
            _check_number(f"features[{name!r}]", weight, low=0.0)
        self.temperature, self.alpha, self.class_dim = float(temperature), float(alpha), class_dim
        self._logits = logits
        self.teacher = fork(teacher).requires_grad_(requires_grad=False)
        self._given = weakref.ref(teacher)
        self._state = _state(teacher)
        self._of_teacher = Taps(self.teacher, tuple(self.features), whose="teacher")
        self._of_student: Taps | None = None

    def __call__(self, student: nn.Module, inputs: Any, labels: Tensor | None = None) -> Tensor:
        """The loss of one batch. `inputs`: a tensor, a tuple of arguments, a dict of keywords, or (args, kwargs)."""
        self._check_teacher()
        taps = self._taps(student)
        args, kwargs = example_call(inputs)
        given, expected = self._expected(args or (), kwargs or {})
        found, values = _called(taps, args or (), kwargs or {}, "student")
        loss = self._soft(self._logits_of(found, "student"), self._logits_of(given, "teacher"))
        if labels is not None:
            hard = _hard(self._rows(self._logits_of(found, "student")), labels)
            loss = self.alpha * loss + (1.0 - self.alpha) * hard
        for name, weight in self.features.items():
            loss = loss + weight * _mean_square(name, values[name], expected[name])
        return loss

    def _expected(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
        """What the teacher gives, without gradients, on the device of the inputs."""
        device = next((value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        own = next(self.teacher.parameters(), None)
        if device is not None and own is not None and own.device != device:
            self.teacher.to(device)
        with torch.no_grad():
            return _called(self._of_teacher, args, kwargs, "teacher")

    def _soft(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            told = f"the student's logits are {list(student.shape)}, the teacher's {list(teacher.shape)}"
            raise _misuse(told, "both must tell the same classes of the same batch")
        ours, theirs = (self._rows(z) / self.temperature for z in (student, teacher))
        apart = F.kl_div(F.log_softmax(ours, -1), F.log_softmax(theirs, -1), reduction="batchmean", log_target=True)
        return apart * self.temperature**2

    def _rows(self, logits: Tensor) -> Tensor:
        """(…, classes, …) as (rows, classes)."""
        return logits.movedim(self.class_dim, -1).flatten(0, -2)

    def _logits_of(self, output: Any, whose: str) -> Tensor:
        try:
            found = output if self._logits is None else self._logits(output)
        except Exception as error:  # it is the user's
            told = f"logits() raised {type(error).__name__} on the {whose}'s output: {error}"
            raise _misuse(told, "it is called with the output of each model") from error
        if isinstance(found, Tensor) and found.dim() >= 2:
            if not -found.dim() <= self.class_dim < found.dim():
                told = f"class_dim={self.class_dim}, and the {whose}'s logits are {list(found.shape)}"
                raise _misuse(told, f"give a dimension from {-found.dim()} to {found.dim() - 1}")
            return found
        told = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise _misuse(
            f"the {whose}'s output is {told}, which holds no logits (rows, classes)",
            "say where they are: logits=lambda output: output['logits']",
        )

    def _taps(self, student: nn.Module) -> Taps:
        if self._of_student is None or self._of_student.model is not student:
            self._check_student(student)
            self._of_student = Taps(student, tuple(self.features), whose="student")
        return self._of_student

    def _check_student(self, student: nn.Module) -> None:
        teacher = self._given()
        if student is teacher or student is self.teacher:
            raise _misuse("student and teacher are one model", "let a copy learn: copy.deepcopy(teacher)")
        own = {id(parameter) for parameter in teacher.parameters()} if teacher is not None else set()
        shared = [name for name, parameter in student.named_parameters() if id(parameter) in own]
        if shared:
            raise _misuse(f"student and teacher share '{shared[0]}'", "let a copy learn: copy.deepcopy(teacher)")

    def _check_teacher(self) -> None:
        teacher = self._given()
        if teacher is None or _state(teacher) == self._state:
            return
        now = dict(_state(teacher))
        changed = [name for name, state in self._state if now.get(name) != state]
        raise SemanticsError(
            "FXQ315",
            f"the teacher was trained: '{(changed or ['its parameters'])[0]}' was written to since the Distillation "
            "was made",
            hint="give the optimizer the student's parameters() only; make a new Distillation if the change was meant",
            module=(changed or [""])[0].rpartition(".")[0],
        )

    def __repr__(self) -> str:
        told = f", features={self.features}" if self.features else ""
        name = type(self.teacher).__name__
        return f"Distillation({name}(...), temperature={self.temperature:g}, alpha={self.alpha:g}{told})"


def _called(taps: Taps, args: Sequence[Any], kwargs: Mapping[str, Any], whose: str) -> tuple[Any, dict[str, Tensor]]:
    """What a model and its tapped modules give. FXQ127 where it fails on the inputs."""
    try:
        found, values = taps(args, kwargs)
    except FxQuantError:
        raise
    except Exception as error:  # a user's forward() may raise anything
        told = f"the {whose} fails on these inputs: {type(error).__name__}: {error}"
        raise _misuse(told, "a tensor is one argument, a tuple the arguments, a dict the keywords") from error
    return found, dict(values)


def _hard(rows: Tensor, labels: object) -> Tensor:
    """Cross entropy of (rows, classes) and one class index a row."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.numel() != rows.shape[0]:
        shown = f"{labels.dtype}{list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise _misuse(f"labels are {shown}, for {rows.shape[0]} rows of logits", "give one class index for each row")
    return F.cross_entropy(rows, labels.flatten())


def _mean_square(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape != teacher.shape:
        told = f"it is {list(student.shape)}, the teacher's is {list(teacher.shape)}"
        raise refusal(name, "student", told, "name a module whose shape compression did not change")
    return F.mse_loss(student, teacher)


def _state(model: nn.Module) -> tuple[tuple[str, tuple[int, int]], ...]:
    """Identities and versions of the parameters: an optimizer that writes to one is seen."""
    return tuple((name, (id(p), 0 if p.is_inference() else p._version)) for name, p in model.named_parameters())


def _check_number(name: str, value: object, *, low: float, high: float = math.inf, is_open: bool = False) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and low <= value <= high and not (is_open and value == low):  # type: ignore[operator]
        return
    wanted = f"above {low:g}" if is_open else f"from {low:g}" + ("" if high == math.inf else f" to {high:g}")
    raise _misuse(f"{name}={value!r}", f"give a number {wanted}")


def _misuse(told: str, hint: str) -> UsageError:
    return UsageError("FXQ127", f"distillation: {told}", hint=hint)
