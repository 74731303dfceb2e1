"""Fills and shapes. Each class differs from the others in shape, colour and lightness: readable in grey.

Hues after Okabe and Ito, "Color Universal Design" (2008), lightened or darkened until their lightness differs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fxquant.graphs.change import Change
from fxquant.graphs.regions import Region

MIXED = "mixed"  # a module that computes in more than one way
LAYERED = tuple(region.value for region in Region)


@dataclass(frozen=True, slots=True)
class Look:
    """How a class of boxes is drawn, and the words of its legend."""

    shape: str
    fill: str
    ink: str
    words: str
    style: str = "filled"
    border: str = "#333333"


LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        Region.QUANTIZED.value: Look("box", "#0072B2", "#FFFFFF", "computed in int8"),
        Region.WEIGHTS.value: Look("octagon", "#8CCBF0", "#000000", "int8 or float16 weights, float activations"),
        Region.FLOAT.value: Look("box", "#F0E442", "#000000", "computed in float", "filled,rounded"),
        Region.BOUNDARY.value: Look("box3d", "#CC79A7", "#000000", "quantize / dequantize"),
        Region.OBSERVER.value: Look("note", "#004D38", "#FFFFFF", "observer or fake quantize"),
        Region.CONSTANT.value: Look("cylinder", "#ECECEC", "#000000", "constant"),
        Region.NEUTRAL.value: Look("ellipse", "#FFFFFF", "#000000", "input, output, sizes, indices"),
        MIXED: Look("component", "#B3A4D8", "#000000", "module of several kinds"),
    }
)


@dataclass(frozen=True, slots=True)
class ChangeLook:
    """How a change is drawn: fill, border, and the sign before the first line."""

    sign: str
    fill: str
    style: str
    width: float
    words: str


CHANGES: Mapping[str, ChangeLook] = MappingProxyType(
    {
        Change.UNCHANGED.value: ChangeLook("", "#F2F2F2", "solid", 0.7, "unchanged"),
        Change.RETYPED.value: ChangeLook("~ ", "#F0E442", "solid", 1.4, "~ retyped: same op, other dtype or options"),
        Change.REPLACED.value: ChangeLook("± ", "#8CCBF0", "solid", 2.2, "± replaced by other nodes"),
        Change.INSERTED.value: ChangeLook("+ ", "#4DBB98", "bold", 2.8, "+ inserted"),
        Change.REMOVED.value: ChangeLook("− ", "#E07B39", "dashed", 1.4, "− removed"),
    }
)
GOOD, BAD = "#FFFFFF", "#B2182B"  # ends of the overlay's scale
OUTLINES = ("#D55E00", "#000000", "#009E73", "#6A3D9A")  # borders of islands, in turn


def lightness(colour: str) -> float:
    """CIE L* of '#RRGGBB', 0 (black) to 100 (white)."""
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 116 * float(luminance ** (1 / 3)) - 16 if luminance > 0.008856 else 903.3 * luminance


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def blend(share: float) -> str:
    """The colour that far on the way from good (0) to bad (1)."""
    ends = [(int(GOOD[at : at + 2], 16), int(BAD[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(good + (bad - good) * share):02X}" for good, bad in ends)
