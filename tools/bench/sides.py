"""Two sides of a comparison: raw FX and fxquant on the same model, mapping, batches and engine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import fxquant
from fxquant.torch_ao import engine, raw_mapping, raw_quantize

SIDES = ("fxquant", "raw")


@dataclass(frozen=True, slots=True)
class Job:
    """One model and what it is quantized with."""

    model: nn.Module
    batches: list[tuple[Any, ...]]
    engine_name: str

    def quantize(self, side: str) -> Callable[..., Any]:
        """The lowered model of one side. The engine stays as it was."""
        return self.by_fxquant() if side == "fxquant" else self.by_raw(copy.deepcopy(self.model))

    def by_fxquant(self) -> Callable[..., Any]:
        """fxquant.compile with torch's own default mapping."""
        compiled: Callable[..., Any] = fxquant.compile(
            self.model,
            raw_mapping(self.engine_name),
            calibration_data=self.batches,
            example_inputs=self.batches[0],
            target=self.engine_name,
            max_batches=len(self.batches),
        )
        return compiled

    def by_raw(self, own: nn.Module) -> Callable[..., Any]:
        """prepare_fx → calibrate → convert_fx on a copy that it may mark: raw FX is not charged for the copy."""
        with engine(self.engine_name):
            return raw_quantize(own, raw_mapping(self.engine_name), self.batches[0], self.batches, in_place=True)

    def outputs(self, quantized: Callable[..., Any], inputs: tuple[Any, ...]) -> torch.Tensor:
        """One call on this job's engine."""
        with engine(self.engine_name), torch.no_grad():
            result: torch.Tensor = quantized(*inputs)
        return result
