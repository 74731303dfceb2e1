"""One piece of advice: what to change, the numbers that say so, and the rule of a recipe that does it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fxquant.recipe import Recipe, RecipeRule, dump


class Kind(StrEnum):
    """What is changed."""

    KEEP_FLOAT = "keep float"  # a layer that loses more than the others
    FLOAT_SITE = "float site"  # a value that 8 bits cannot hold: its maker and its readers stay float
    OBSERVER = "observer"  # another way to choose a range
    PER_CHANNEL = "per channel"  # a scale for each output channel of a weight
    MORE_BITS = "more bits"
    SLOWER = "slower in int8"
    ISLAND = "island"  # quantize and dequantize around a float op cost more than they save
    QUANTIZE = "quantize"  # a float op between quantized ones that may be int8
    DYNAMIC = "dynamic"  # ranges of activations when they come


@dataclass(frozen=True, slots=True)
class Advice:
    """`gain` and `unit` are of the objective: dB of output SQNR, or milliseconds a call.

    Where `is_verified`, the model was compiled with the rule and both numbers were measured; else they are expected,
    from the numbers in `why`. `refused` says why it could not be compiled.
    """

    kind: Kind
    site: str
    module: str
    why: str
    recipe_rule: RecipeRule
    gain: float
    unit: str
    sqnr_gain_db: float
    seconds_gain: float  # a call becomes faster by so much; negative: slower
    float_macs: float = 0.0  # share of the model's multiplications that become float by it, 0 to 1
    is_verified: bool = False
    refused: str = ""

    @property
    def rule_text(self) -> str:
        """The rule as a recipe has it."""
        text = dump(Recipe(rules=(self.recipe_rule,)))
        return text[text.index("[[rule]]") :]

    def __str__(self) -> str:
        told = f"cannot be compiled: {self.refused}" if self.refused else "measured" if self.is_verified else "expected"
        amounts = [f"{self.sqnr_gain_db:+.3g} dB"] if self.sqnr_gain_db else []
        word = "saved" if self.seconds_gain > 0 else "more"
        amounts += [f"{1e3 * abs(self.seconds_gain):.3g} ms {word}"] if self.seconds_gain else []
        return f"{self.kind} {self.module or self.site}: {', '.join(amounts) or 'nothing'} ({told}); {self.why}"
