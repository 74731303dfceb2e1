"""One exception tree with stable codes. Any input gives success or a subclass of FxQuantError."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

from fxquant.location import Location

_MOST_CHARACTERS = 200  # of a line of an error that is not ours


class FxQuantError(Exception):
    """Base of every error that reaches the user: what, where in the user's code, why, what to do.

    `code` is stable (`fxquant explain CODE` prints its page), `node` and `module` name the culprit,
    `pass_name` the pass that was running, `where` the user's line, `exit_status` what the command line returns.
    """

    exit_status: ClassVar[int] = 1

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        node: str | None = None,
        module: str | None = None,
        pass_name: str | None = None,
        where: Location | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint
        self.node, self.module, self.pass_name, self.where = node, module, pass_name, where
        self.records: tuple[object, ...] = ()  # the PassRecords up to the failure, set by Pipeline.run

    def __str__(self) -> str:
        lines = [f"{self.code} {self.message}"]
        if self.where is not None:
            lines.append(f"  at {self.where}")
        if self.pass_name is not None:
            before = ", ".join(getattr(record, "name", "?") for record in self.records)
            lines.append(f"  in pass '{self.pass_name}'" + (f", after {before}" if before else ""))
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:  # an exception with keyword arguments does not pickle by itself
        return (_rebuild, (type(self), self.code, self.message, self.__dict__))


def _rebuild(kind: type[FxQuantError], code: str, message: str, state: dict[str, object]) -> FxQuantError:
    error = kind(code, message)
    error.__dict__.update(state)
    return error


class UsageError(FxQuantError):
    """FXQ1xx: the call or its configuration is wrong."""

    exit_status = 2


class MissingExtraError(UsageError, ImportError):
    """A part of fxquant whose optional dependency is not installed."""


class RecipeError(UsageError):
    """A recipe, regex or pipeline text that does not parse."""


class UnknownTargetError(UsageError):
    """A rule or name that matches nothing in the model."""


class QConfigError(UsageError):
    """A qconfig that means nothing."""


class ExampleInputError(UsageError):
    """Inputs that do not fit the model's signature."""


class MetricError(UsageError):
    """A metric that does not suit the data, that raises, or that gives no number."""


class ComparisonError(UsageError):
    """Candidates that cannot be told apart, or that all failed."""


class UnsupportedModelError(FxQuantError):
    """FXQ2xx: the model cannot be compiled as it is."""

    exit_status = 3


class UntraceableError(UnsupportedModelError):
    """Python in the model that symbolic tracing cannot follow."""


class MutationError(UnsupportedModelError):
    """An in-place write that cannot be rewritten."""


class TrainingModeError(UnsupportedModelError):
    """The model is in training mode."""


class DtypeError(UnsupportedModelError):
    """Weights that are not float32."""


class DeviceError(UnsupportedModelError):
    """Parameters on several devices, or on none (meta)."""


class AlreadyQuantizedError(UnsupportedModelError):
    """The model went through a quantizer before."""


class UnsupportedOpError(UnsupportedModelError):
    """An op that no pass and no engine understands."""


class CalibrationError(FxQuantError):
    """FXQ3xx: the calibration data, or what it did to the observers."""

    exit_status = 4


class EmptyCalibrationError(CalibrationError):
    """No batch was seen."""


class NonFiniteError(CalibrationError):
    """NaN or infinity in weights, data or activations."""


class UncalibratedError(CalibrationError):
    """An observer that saw nothing."""


class CalibrationShapeError(CalibrationError):
    """A batch that does not fit the model."""


class DegenerateRangeError(CalibrationError):
    """A range that overflows float32."""


class UnmeasurableError(CalibrationError):
    """There is nothing to compare the compiled model with."""


class EmptyDataError(CalibrationError):
    """Data to evaluate on that holds no row."""


class PassError(FxQuantError):
    """FXQ4xx: a pass broke its promise."""

    exit_status = 5


class LintError(PassError):
    """The graph is malformed after a pass."""


class SemanticsError(PassError):
    """A pass changed what the model computes."""


class ContractError(PassError):
    """A pass got or gave the wrong stage, or the model changed under the compiler."""


class BackendError(FxQuantError):
    """FXQ5xx: the engine."""

    exit_status = 6


class EngineUnavailableError(BackendError):
    """The engine is not there."""


class LoweringError(BackendError):
    """The engine refuses a layer, or an input."""


class ParityError(BackendError):
    """The lowered layer disagrees with the canonical graph."""


class ArtifactError(FxQuantError):
    """FXQ6xx: a saved file."""

    exit_status = 7


class CorruptError(ArtifactError):
    """A file that is none of ours, or cannot be read."""


class TruncatedError(ArtifactError):
    """A file that ends too early."""


class ChecksumError(ArtifactError):
    """A file whose bytes are not those that were saved."""


class SchemaError(ArtifactError):
    """A file that is not of the form that fxquant writes."""


class UnsafeError(ArtifactError):
    """A file whose contents mean nothing, or something that must not be built or run."""


class LimitError(ArtifactError):
    """A file that has more of something than is read."""


class UnsavableError(ArtifactError):
    """A compiled model with something that a file cannot hold."""


class UnwritableError(ArtifactError):
    """A file that cannot be written; what stood there is as it was."""


class MissingLeafError(ArtifactError):
    """A module, function or type of the user's own that the caller of load() has to hand in."""


class RenderError(FxQuantError):
    """FXQ7xx: drawing."""

    exit_status = 8


class RendererMissingError(RenderError):
    """No Graphviz is installed."""


class RenderTimeoutError(RenderError):
    """The renderer took too long and was stopped."""


class ResourceError(FxQuantError):
    """FXQ8xx: memory, time or budgets."""

    exit_status = 9


class MemoryBudgetError(ResourceError):
    """The model does not fit."""


class FxQuantWarning(UserWarning):
    """Something the user should know and can act on; the message starts with its code."""


def first_line(error: BaseException) -> str:
    """Of an error that is not ours, as much of its message as fits into one of ours."""
    return str(error).strip().partition("\n")[0][:_MOST_CHARACTERS]


def in_one_line(error: BaseException) -> str:
    """'TypeError: what its message begins with', of an error that is not ours."""
    return f"{type(error).__name__}: {first_line(error)}"


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """The names most like `name`, for 'did you mean'. Falls back on names that contain it."""
    names = list(known)
    close = get_close_matches(name, names, n=most, cutoff=0.5)
    return close or [other for other in names if name and name in other][:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that lists the nearest names, or the first few where none is near."""
    names = list(known)
    close = nearest(name, names)
    if close:
        return "did you mean " + ", ".join(repr(other) for other in close) + "?"
    if not names:
        return ""
    shown = ", ".join(repr(other) for other in names[:8])
    return f"known: {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
