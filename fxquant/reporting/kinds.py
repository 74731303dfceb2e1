"""The few kinds of outcome that the report colours and filters by, read off what a layer got."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What became of a layer."""

    INT8 = "int8"  # computed on codes
    MIXED = "mixed"  # some of its parts on codes, others in float
    INT8_WEIGHTS = "int8 weights"  # weights as codes, computed in float
    FLOAT16_WEIGHTS = "float16 weights"
    NARROW_WEIGHTS = "narrow weights"  # int4, bfloat16, small floats
    SIMULATED = "simulated"  # rounded as asked, on the canonical graph: no engine runs it
    FLOAT = "float32"
    PLAIN = "plain number"  # sizes and other numbers: nothing to quantize
    ABSORBED = "absorbed"  # folded or fused into another layer, or removed
    OPEN = "open"  # not settled yet

    @property
    def css(self) -> str:
        """Its class in the style sheet."""
        return f"k-{self.value.replace(' ', '-')}"

    @property
    def label(self) -> str:
        """In words."""
        return {"absorbed": "folded or removed", "open": "not decided"}.get(self.value, self.value)


def kind_of(effective: str, *, gives_tensor: bool = True) -> Kind:
    """The kind of a ledger row's `effective`; a call that gives no tensor is neither quantized nor float."""
    if not effective:
        return Kind.OPEN
    if not gives_tensor and effective == "float32":
        return Kind.PLAIN
    if effective.startswith(("folded into", "fused into")) or effective == "removed":
        return Kind.ABSORBED
    has_float = effective.startswith("float32") or ", float32 (" in effective
    for kind in (Kind.INT8_WEIGHTS, Kind.FLOAT16_WEIGHTS, Kind.INT8):
        if effective.startswith(kind):
            return Kind.MIXED if has_float else kind
    if effective.startswith("simulated"):
        return Kind.SIMULATED
    return Kind.NARROW_WEIGHTS if " weights" in effective else Kind.FLOAT
