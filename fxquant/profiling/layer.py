"""One layer of a profile: a call site as the plan names it, or a module with weights that is never called."""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.profiling.distribution import Distribution
from fxquant.profiling.saturation import needs_seven_bits
from fxquant.profiling.weights import WeightProfile


@dataclass(frozen=True, slots=True)
class Layer:
    """What is known of it. None: it was not measured, or has none."""

    site: str  # origin id; '' for a module that forward() never calls
    module: str
    op: str
    where: str  # 'file:line, in forward:  y = self.fc(x)' of the user's code; '' where nobody knows
    requested: str
    effective: str
    reason: str
    weights: tuple[WeightProfile, ...] = ()
    values: Distribution | None = None  # of what it gives, in the float model, over all batches
    quant_low: float | None = (
        None  # the range that its codes hold; None where its result is float or fused into another
    )
    quant_high: float | None = None
    clipped: float | None = None  # share of its values outside of that range, 0 to 1
    range_sqnr_db: float | None = None  # expected of that range; of what a few huge values hide, where they do
    sqnr_db: float | None = None  # measured, with the errors of all layers before it
    own_sqnr_db: float | None = None  # measured, fed the float model's own inputs
    activation_bits: int = 0  # of the codes that were asked for; 0 where none were
    saturates: bool = False  # on this CPU and engine: 8-bit activations, and weights that may overflow int16 pairs
    macs: int | None = None
    float_seconds: float | None = None  # of this site in the float graph
    seconds: float | None = None  # of the kernels that compute it in the lowered graph, together with `computed_with`
    group_float_seconds: float | None = None  # of this site and `computed_with` in the float graph
    computed_with: tuple[str, ...] = ()  # the other sites that the same kernels compute (folded, fused)

    @property
    def name(self) -> str:
        """How people call it: the module's name, with the op where the call is not the module's own."""
        is_function = self.op[:1].islower()
        return " ".join(filter(None, (self.module, self.op if is_function else ""))) or self.site

    @property
    def is_called(self) -> bool:
        """False: forward() never gets there, and only its weights are known."""
        return bool(self.site)

    @property
    def needs_seven_bits(self) -> bool:
        """Could full 8-bit inputs saturate with its weights, on a CPU without VNNI?"""
        return any(needs_seven_bits(weight.pair_sum) for weight in self.weights)
