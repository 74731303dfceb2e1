"""The words that drawn models are made of: each kind of op, what it fits, what it gives, and how it is called."""

from __future__ import annotations

from fxquant.testing.kind import Kind
from fxquant.testing.vocabulary_calls import ACTIVATIONS, BINARY, POOLS, SCALAR, SHAPES
from fxquant.testing.vocabulary_layers import LAYERS
from fxquant.testing.vocabulary_writes import WRITES

AGAIN = Kind("again", fits=lambda op, values: False)  # stands for the op whose module it calls once more

FAMILIES: tuple[tuple[Kind, ...], ...] = (  # each is drawn as often as any other
    (*ACTIVATIONS, *SCALAR),
    LAYERS,
    BINARY,
    (*SHAPES, *POOLS),
    WRITES,
    (AGAIN,),
)
KINDS: dict[str, Kind] = {kind.name: kind for family in FAMILIES for kind in family}
