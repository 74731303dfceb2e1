"""What error_bound() returns: bounds and estimates of each output, of each layer, and what has no bound and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fxquant.errors import UsageError
from fxquant.structure import flatten_with_paths

if TYPE_CHECKING:
    from fxquant.signature import Signature


@dataclass(frozen=True, slots=True, eq=False)
class LeafBound:
    """Of one output tensor: both of its shape, float64. |compiled - float| <= bound; `estimate` is its likely size."""

    path: str  # '' where the output is one tensor, else "['logits']"
    bound: Tensor
    estimate: Tensor  # root mean square, where roundings are independent noise


@dataclass(frozen=True, slots=True)
class LayerBound:
    """Of one call site. `own` is what it and the rounding of its result add, `passed_on` comes from before it.

    `weights` is the most that half a step on each of its weights can do to one element, on the float model's inputs.
    """

    site: str
    module: str
    op: str
    largest: float
    mean: float
    own: float
    passed_on: float
    weights: float


@dataclass(frozen=True, slots=True)
class Unbounded:
    """A site after which nothing is promised, until something limits the range again."""

    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A site that, fed the float model's own values, is further from its result than the steps of its weights allow.

    Its weights were clipped, or the graph computes something else than the model.
    """

    site: str
    shift: float  # the largest difference
    excess: float  # by how much it exceeds what is allowed


@dataclass(frozen=True, slots=True)
class Violation:
    """The first place where a result is further from the float one than its bound allows."""

    path: str
    index: tuple[int, ...]
    error: float
    bound: float

    def __str__(self) -> str:
        place = f"output{self.path}{list(self.index)}"
        return f"{place} is {self.error:.6g} off the float model, its bound is {self.bound:.6g}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ErrorBound:
    """How far a compiled model may be from its float model on given inputs."""

    leaves: tuple[LeafBound, ...]
    layers: tuple[LayerBound, ...]
    unbounded: tuple[Unbounded, ...]
    unexplained: tuple[Unexplained, ...]
    _signature: Signature
    _sites: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def bound(self) -> Any:
        """The bounds in the model's own output structure."""
        return self._signature.rebuild([leaf.bound for leaf in self.leaves])

    @property
    def estimate(self) -> Any:
        """The estimates in the model's own output structure."""
        return self._signature.rebuild([leaf.estimate for leaf in self.leaves])

    @property
    def is_finite(self) -> bool:
        """Has every output element a bound?"""
        return all(bool(leaf.bound.isfinite().all()) for leaf in self.leaves)

    @property
    def sites(self) -> tuple[str, ...]:
        """The call sites whose bounds are known, in graph order."""
        return tuple(self._sites)

    def bound_at(self, site: str) -> Tensor:
        """The bound of the value that a call site gives, elementwise, its rounding included. KeyError where none is."""
        return self._sites[site]

    def violation(self, actual: Any, expected: Any) -> Violation | None:
        """The first output element of `actual` (the compiled model's) that is too far from `expected` (the float's).

        Both in the model's output structure. A NaN on one side only violates every bound but infinity.
        """
        for error, leaf in zip(self.errors(actual, expected), self.leaves, strict=True):
            too_far = ~(error <= leaf.bound)
            if bool(too_far.any()):
                index = tuple(int(at) for at in too_far.nonzero()[0])
                return Violation(leaf.path, index, float(error[index]), float(leaf.bound[index]))
        return None

    def errors(self, actual: Any, expected: Any) -> list[Tensor]:
        """|actual - expected| of each output tensor, in the order of `leaves`. FXQ120 where they are no results."""
        pairs = zip(self._tensors(actual, "actual"), self._tensors(expected, "expected"), strict=True)
        return [difference(found, wanted) for found, wanted in pairs]

    def holds(self, actual: Any, expected: Any) -> bool:
        """Is every output element of `actual` within its bound of `expected`?"""
        return self.violation(actual, expected) is None

    def share(self, actual: Any, expected: Any) -> float:
        """The largest error over its bound, 0 to 1 where all hold; 0 where there is no error."""
        pairs = zip(self.errors(actual, expected), self.leaves, strict=True)
        found = (error / leaf.bound.clamp(min=1e-300) for error, leaf in pairs)
        return max((float(shares.max()) for shares in found if shares.numel()), default=0.0)

    def _tensors(self, value: Any, name: str) -> list[Tensor]:
        by_path = {path: leaf for leaf, path in zip(*flatten_with_paths(value)[:2], strict=True)}
        missing = [leaf.path for leaf in self.leaves if not isinstance(by_path.get(leaf.path), Tensor)]
        if missing:
            told = f"{name} has no tensor at output{missing[0]}: it is no result of this model"
            raise UsageError("FXQ120", told, hint="compare what the two models return for the same inputs")
        found = [by_path[leaf.path].detach() for leaf in self.leaves]
        for tensor, leaf in zip(found, self.leaves, strict=True):
            if tensor.shape != leaf.bound.shape:
                told = f"{name} has shape {list(tensor.shape)} at output{leaf.path}, the bound {list(leaf.bound.shape)}"
                raise UsageError("FXQ120", told, hint="compare what the two models return for the same inputs")
        return found

    def __repr__(self) -> str:
        largest = max((float(leaf.bound.max()) for leaf in self.leaves if leaf.bound.numel()), default=0.0)
        told = f", {len(self.unbounded)} sites unbounded" if self.unbounded else ""
        return f"ErrorBound({len(self.leaves)} outputs, largest {largest:.4g}, {len(self.layers)} layers{told})"


def difference(found: Tensor, wanted: Tensor) -> Tensor:
    """|found - wanted| in float64; 0 where both are the same infinity or NaN."""
    left, right = found.double(), wanted.double()
    is_same = (left == right) | (left.isnan() & right.isnan())
    return torch.where(is_same, 0.0, (left - right).abs())
