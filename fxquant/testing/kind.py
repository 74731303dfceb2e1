"""One word of the vocabulary of drawn models, and the rules of shapes that all words share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxquant.testing.value import Value

if TYPE_CHECKING:
    from fxquant.testing.spec import Op

Values = Sequence[Value]
Part = nn.Module | torch.Tensor | tuple[int, ...] | None
Shape = tuple[int, ...]
MOST_VALUES = 512  # in one sample of any value: drawn models stay small
FORMS = ("module", "function", "method")


def same_shape(op: Op, values: Values) -> Shape:
    """The result has the first input's shape."""
    return values[0].shape


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of op.

    `fits` says whether it may stand here, `shape` what it gives, `part` makes its module, buffer or sizes (or None),
    `call` computes the value from the part and the inputs. `draws` names the fields of Op that mean something to it.
    """

    name: str
    fits: Callable[[Op, Values], bool] = lambda op, values: True
    shape: Callable[[Op, Values], Shape] = same_shape
    part: Callable[[Op, Values], Part] = lambda op, values: None
    call: Callable[..., Any] = lambda op, part, x: part(x)
    arity: int = 1
    draws: tuple[str, ...] = ()
    is_module: bool = False  # its part is a module, where `form` does not say otherwise
    is_view: bool = False  # the result may share the first input's memory
    is_write: bool = False  # it writes to the first input
    makes_contiguous: bool = False
    keeps_contiguous: bool = True
    takes_tokens: bool = False

    @property
    def writes(self) -> bool:
        """Does it change a tensor that is there already, a value or a buffer?"""
        return self.is_write or self.name == "count"

    def accepts(self, op: Op, values: Values) -> bool:
        """May the op stand here?"""
        if len(values) != self.arity or any(value.is_tokens is not self.takes_tokens for value in values):
            return False
        return self.fits(op, values) and 0 < prod(self.shape(op, values)) <= MOST_VALUES

    def result(self, op: Op, values: Values, *, fresh: int) -> Value:
        """What is known of its value; `fresh` is the owner of new memory."""
        owner = values[0].owner if self.is_view or self.is_write else fresh
        given = all(value.is_contiguous for value in values) and self.keeps_contiguous
        return Value(self.shape(op, values), owner, is_contiguous=self.makes_contiguous or given)
