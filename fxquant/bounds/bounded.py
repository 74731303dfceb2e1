"""A float tensor of the quantized model with what is known of its error, and the table of rules that torch ops follow.

    value     what the canonical graph computes when no activation is rounded (float64): its centre
    error     |q - value| <= error, elementwise, for every run whose roundings obey the step rule
    variance  of q - value, when roundings are independent uniform noise: an estimate, no bound

A `Bounded` answers torch functions by these rules, so torch's own modules (and plain Python made of torch functions)
run on it as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fxquant import recurrent

# Every kernel rounds each float32 operation once: u = 2^-24. A few operations in a row are covered by SLACK · |result|.
ROUNDING = 2.0**-24
SLACK = 8 * ROUNDING
PARTS = ("value", "error", "variance")

Rule = Callable[..., Any]
AnyRule = TypeVar("AnyRule", bound=Rule)
Grid = tuple[float, int]  # scale and zero point


class NoBound(Exception):
    """There is no rule for this op, or its result may be anything. Never leaves the package."""


@dataclass(frozen=True, eq=False, repr=False)
class Bounded:
    """See above. `grid` is known where the quantized value is a multiple of a scale: quantizing again is exact."""

    value: Tensor
    error: Tensor
    variance: Tensor
    grid: Grid | None = None

    @classmethod
    def __torch_function__(
        cls, func: Rule, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return dispatch(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name in _TENSOR_FACTS:
            return getattr(self.value, name)
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        method = getattr(Tensor, name)
        return lambda *args, **kwargs: dispatch(method, (self, *args), kwargs)

    @property
    def dtype(self) -> torch.dtype:
        """What the graph's own tensor has."""
        return torch.float32

    def __bool__(self) -> bool:
        raise NoBound("its truth value is asked for, which depends on the numbers")

    def __repr__(self) -> str:
        return f"Bounded({tuple(self.value.shape)}, error up to {float(self.error.max()) if self.numel() else 0.0:.3g})"

    def dim(self) -> int:
        """Number of dimensions."""
        return self.value.dim()

    def numel(self) -> int:
        """Number of elements."""
        return self.value.numel()

    def size(self, dim: int | None = None) -> Any:
        """As Tensor.size."""
        return self.value.size() if dim is None else self.value.size(dim)

    def __len__(self) -> int:
        return len(self.value)

    def __neg__(self) -> Any:
        return apply("neg", self)

    def __add__(self, other: Any) -> Any:
        return apply("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return apply("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return apply("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return apply("mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return apply("div", other, self)

    def __matmul__(self, other: Any) -> Any:
        return apply("matmul", self, other)

    def __pow__(self, other: Any) -> Any:
        return apply("pow", self, other)

    def __getitem__(self, index: Any) -> Any:
        return apply("getitem", self, index)

    def __eq__(self, other: object) -> Any:
        return apply("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return apply("ne", self, other)

    __hash__ = object.__hash__

    def __iadd__(self, other: Any) -> Any:
        raise NoBound("a write in place")

    __isub__ = __imul__ = __itruediv__ = __imatmul__ = __ipow__ = __iadd__

    def __gt__(self, other: Any) -> Any:
        return apply("gt", self, other)

    def __lt__(self, other: Any) -> Any:
        return apply("lt", self, other)

    def __ge__(self, other: Any) -> Any:
        return apply("ge", self, other)

    def __le__(self, other: Any) -> Any:
        return apply("le", self, other)

    def widened(self, error: Tensor, variance: Tensor | None = None) -> Bounded:
        """With more error (and variance)."""
        return Bounded(self.value, self.error + error, self.variance if variance is None else self.variance + variance)


_TENSOR_FACTS = frozenset(
    {"shape", "device", "is_cuda", "layout", "ndim", "is_quantized", "requires_grad", "is_sparse"}
)


def exact(tensor: Tensor) -> Bounded:
    """A float tensor that both models have alike."""
    value = tensor.detach().double()
    return Bounded(value, torch.zeros_like(value), torch.zeros_like(value))


def lifted(value: Any) -> Bounded:
    """A number or tensor as a Bounded; a Bounded as it is."""
    if isinstance(value, Bounded):
        return value
    return exact(value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64))


def double(value: Any) -> Any:
    """Float tensors in float64; everything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double()
    return value


def made(value: Tensor, error: Tensor, variance: Tensor, *, slack: float = SLACK, of: Tensor | None = None) -> Bounded:
    """A Bounded with the rounding of the kernel's own float32 arithmetic added: slack · (`of`, else |value|).

    What cannot be said (NaN) is unbounded; an infinity that both models have has no error.
    """
    size = value.abs() if of is None else of
    error = error + torch.where(size.isfinite(), slack * size, 0.0)
    error = torch.where(error.isnan(), torch.inf, error)
    return Bounded(value, error, torch.where(variance.isnan(), torch.inf, variance))


def summed_slack(count: float) -> float:
    """Of float32 sums of `count` terms, in whatever order, on both sides: of Σ |terms|.

    n · 2^-24 each (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, §4.2).
    """
    return 2 * (count + 4) * ROUNDING


# The table ----------------------------------------------------------------------------------------------------------

RULES: dict[str, Rule] = {}  # by the name of the function: torch.relu, F.relu and Tensor.relu are one op

_HOMES = ("torch.", "fxquant.")
_BUILT_IN = (None, "torch", "_operator", "builtins", "math")


def rule(*names: str) -> Callable[[AnyRule], AnyRule]:
    """Let a function be the rule of these ops."""

    def enter(function: AnyRule) -> AnyRule:
        for name in names:
            assert name not in RULES, name
            RULES[name] = function
        return function

    return enter


def rule_of(func: Any) -> Rule | None:
    """The rule of a function of torch's (or of Python's operator module, or ours); None where there is none."""
    home, name = getattr(func, "__module__", None), getattr(func, "__name__", "")
    if home not in _BUILT_IN and not str(home).startswith(_HOMES):
        return None
    if home == recurrent.__name__ and func not in (recurrent._seen, recurrent._gru_step):
        return None  # written out in torch functions: these have the rules
    return RULES.get(name)


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a torch function on arguments among which is a Bounded."""
    found = rule_of(func)
    if found is None:
        raise NoBound(f"there is no rule for {getattr(func, '__name__', func)}")
    return found(*args, **kwargs)


def apply(name: str, *args: Any, **kwargs: Any) -> Any:
    """The rule called `name`."""
    return RULES[name](*args, **kwargs)
