"""Running observers over data, and judging what they saw: NaN, infinities, empty and overflowing ranges are errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from fxquant.aliasing import restore_buffers, saved_buffers
from fxquant.arrival import taken_in
from fxquant.diagnosis import Dtypes, diagnose
from fxquant.errors import (
    CalibrationShapeError,
    DegenerateRangeError,
    DeviceError,
    ExampleInputError,
    FxQuantError,
    NonFiniteError,
    UncalibratedError,
)
from fxquant.floors import REMEDY, bites_range
from fxquant.ledger import Ledger
from fxquant.observation import Observation, observer_of
from fxquant.origin import scope, where
from fxquant.program import Program
from fxquant.row_digests import row_digests
from fxquant.torch_ao import quiet

FEW_SAMPLES = 8
MOST_KEPT = 128  # batches
_LARGEST = torch.finfo(torch.float32).max


def observers_in(program: Program) -> Iterator[tuple[fx.Node, Observation]]:
    """Observer calls in graph order."""
    for node in program.graph.nodes:
        observation = observer_of(program.graph_module, node)
        if observation is not None:
            yield node, observation


def observe(program: Program, leaves: tuple[torch.Tensor, ...], *, batch: int) -> tuple[torch.Tensor, ...]:
    """Run one batch through a PREPARED program; its float result. Errors name the batch and the layer.

    Raises NonFiniteError (FXQ302) and CalibrationShapeError (FXQ304).
    """
    try:
        with quiet(), torch.no_grad():
            result: tuple[torch.Tensor, ...] = program.graph_module.forward(*leaves)  # a call of fx prints
    except FxQuantError:
        raise
    except Exception as error:
        raise diagnose(program, leaves, batch, error) from error
    if any(_is_non_finite(observation) for _, observation in observers_in(program)):
        raise diagnose(program, leaves, batch, None)
    return result


def has_observers(program: Program) -> bool:
    """Is there anything to calibrate?"""
    return next(observers_in(program), None) is not None


_TABLE_WIDTH = 256
_EXAMPLE_VALUES = 2**16  # as many rows of the example as hold so many values: faults of kernels show on some rows only


def enough_rows(leaves: tuple[torch.Tensor, ...]) -> int:
    """How many rows an example needs: 2 of large inputs, up to 64 of small ones."""
    largest = max((_values_in_a_row(leaf) for leaf in leaves if leaf.dim() > 0 and len(leaf) > 0), default=1)
    return min(64, max(2, _EXAMPLE_VALUES // max(largest, 1)))


def _values_in_a_row(leaf: torch.Tensor) -> int:
    """What a row of this input becomes inside the model: an index stands for a row of a table."""
    return leaf[0].numel() * (1 if leaf.is_floating_point() else _TABLE_WIDTH)


def run_on_few(interpreter: fx.Interpreter, leaves: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Run on the first rows of a batch, where its tensors share a leading size and the model takes few; else on all."""
    sizes = {leaf.shape[0] if leaf.dim() > 0 else None for leaf in leaves}
    rows = enough_rows(leaves)
    few = tuple(leaf[:rows] for leaf in leaves) if len(sizes) == 1 and None not in sizes else leaves
    try:
        interpreter.run(*few)
        return few
    except Exception:  # perhaps it insists on its batch size; what fails on the whole batch too is raised from there
        interpreter.run(*leaves)
        return leaves


@dataclass(slots=True)
class Observing:
    """A PREPARED program that is being fed: runs batches, counts them, and keeps an example."""

    program: Program
    ledger: Ledger
    batches: int = 0
    samples: int = 0
    example: tuple[torch.Tensor, ...] | None = None
    rows_seen: set[bytes] = field(default_factory=set)
    _buffers: Mapping[str, torch.Tensor] = field(init=False)
    _kept: list[tuple[torch.Tensor, ...]] = field(default_factory=list)  # for another round, where sites may fall

    def __post_init__(self) -> None:
        self._buffers = saved_buffers(self.program.graph_module)

    def finish(self) -> Program:
        """The program with its example, and with the buffers that forward() changes as they were before it was fed."""
        restore_buffers(self.program.graph_module, self._buffers)
        return replace(
            self.program,
            example_leaves=self.example or self.program.example_leaves,
            calibrated_on=frozenset(self.program.calibrated_on | self.rows_seen),
            kept_batches=tuple(self._kept) or self.program.kept_batches,
        )

    def run(self, leaves: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The float result of one batch, seen by the observers. FXQ302 and FXQ304 name the batch and the layer."""
        leaves = self._on_the_cpu(leaves)
        hint = "clean the data, or pass on_nonfinite='skip' or 'replace'"
        check_finite(self.program, leaves, f"calibration batch {self.batches}", hint)
        if self.example is None:
            self._drop_integer_observers(leaves)
        result = observe(self.program, leaves, batch=self.batches)
        self.batches += 1
        self.samples += samples_in(leaves)
        self.rows_seen.update(row_digests(leaves))
        if self._may_need_it_again and len(self._kept) < MOST_KEPT:
            self._kept.append(tuple(leaf.detach().clone() for leaf in leaves))  # a loader may fill its buffers anew
        return result

    @property
    def _may_need_it_again(self) -> bool:
        plan = self.program.plan
        return plan is not None and any(decision.fallbacks for decision in plan)

    def _on_the_cpu(self, leaves: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Batches from another device are copied, and that is said; FXQ222 for one without values."""
        if all(leaf.device.type == "cpu" for leaf in leaves):
            return leaves
        there = ", ".join(sorted({str(leaf.device) for leaf in leaves if leaf.device.type != "cpu"}))
        try:
            leaves = taken_in(leaves, [leaf.path for leaf in self.program.signature.tensor_leaves])
        except DeviceError as error:
            raise of_batch(error, self.batches) from error
        self.ledger.notice("FXQ234", f"calibration batches come from {there}: each is copied to the CPU")
        return leaves

    def _drop_integer_observers(self, leaves: tuple[torch.Tensor, ...]) -> None:
        """Observers of counts, indices and masks go: only floating-point values are quantized."""
        found = self._probed(leaves)
        for node, _ in list(observers_in(self.program)):
            source = node.all_input_nodes[0]
            dtype = found.get(source)
            if dtype is None or not dtype.is_floating_point:
                told = "no single tensor" if dtype is None else str(dtype).removeprefix("torch.")
                if self.ledger.row_of(source) is not None:  # an argument or a buffer has none
                    why = f"its values are {told}: only float32 tensors are quantized"
                    self.ledger.decline("FXQ209", source, why=why)
                node.replace_all_uses_with(source)
                self.program.graph.erase_node(node)
        self.program.graph_module.recompile()

    def _probed(self, leaves: tuple[torch.Tensor, ...]) -> dict[fx.Node, torch.dtype]:
        """The dtype of each tensor, and the example rows that told it."""
        probe = Dtypes(self.program.graph_module)
        try:
            with quiet(), torch.no_grad():
                self.example = tuple(leaf.detach().clone() for leaf in run_on_few(probe, leaves))
        except Exception as error:
            raise diagnose(self.program, leaves, self.batches, error) from error
        return probe.found


def samples_in(leaves: tuple[torch.Tensor, ...]) -> int:
    """How many samples a batch has: the leading size of its first tensor with one (1 for scalars)."""
    return next((leaf.shape[0] for leaf in leaves if leaf.dim() > 0), 1)


def leaves_of(program: Program, args: Any, kwargs: Any, batch: int) -> tuple[torch.Tensor, ...]:
    """The graph's inputs for one batch. FXQ304 names the batch where it does not fit the model's signature."""
    try:
        return program.signature.leaves(args, kwargs)
    except ExampleInputError as error:
        raise CalibrationShapeError(
            "FXQ304", f"calibration batch {batch} does not fit the model: {error.message}", hint=error.hint
        ) from error


def of_batch(error: DeviceError, batch: int) -> DeviceError:
    """The same error, said of a calibration batch."""
    return DeviceError("FXQ222", f"calibration batch {batch}: {error.message}", hint=error.hint, module=error.module)


def check_finite(program: Program, leaves: tuple[torch.Tensor, ...], what: str, hint: str) -> None:
    """FXQ302 that names the first input with NaN or infinities, and how many. `what` says which call it is."""
    for leaf, value in zip(program.signature.tensor_leaves, leaves, strict=True):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise NonFiniteError(
                "FXQ302",
                f"{what}: input '{leaf.path}' has {count} NaN or infinite of {value.numel()} values",
                hint=hint,
                module=leaf.path,
            )


def _is_non_finite(observation: Observation) -> bool:
    seen = observation.range
    return seen is not None and seen != (math.inf, -math.inf) and not all(map(math.isfinite, seen))


def judge(program: Program, ledger: Ledger, *, samples: int) -> None:
    """Check what all observers saw in the end. FXQ303 and FXQ305 are errors, FXQ306, FXQ307 and FXQ322 notices."""
    if samples < FEW_SAMPLES:
        ledger.notice(
            "FXQ306",
            f"calibrated on {samples} sample{'s'[: samples != 1]}; ranges may be too narrow",
            hint="give some more",
        )
    for node, observation in observers_in(program):
        seen = observation.range
        if seen is None:
            continue
        source = node.all_input_nodes[0]
        place = {"node": source.name, "module": scope(source), "where": where(source)}
        if seen == (math.inf, -math.inf):
            raise UncalibratedError(
                "FXQ303",
                f"the observer of '{source.name}' saw no value",
                hint="every batch left this tensor empty: give batches with at least one sample",
                **place,  # type: ignore[arg-type]
            )
        if max(seen[1], 0.0) - min(seen[0], 0.0) > _LARGEST:
            raise DegenerateRangeError(
                "FXQ305",
                f"the range of '{source.name}' is [{seen[0]:.3g}, {seen[1]:.3g}], wider than float32 can hold",
                hint="keep this layer float, or clamp its input",
                **place,  # type: ignore[arg-type]
            )
        if seen == (0.0, 0.0):
            ledger.notice("FXQ307", f"'{source.name}' was zero throughout calibration; its output stays exactly zero")
        floor = bites_range(observation.module, *seen)
        if floor is not None:
            told = f"the range of '{source.name}' is [{seen[0]:.3g}, {seen[1]:.3g}], and its observer's eps={floor:.3g}"
            ledger.notice("FXQ322", f"{told} is wider than its step: codes are lost", hint=REMEDY)
