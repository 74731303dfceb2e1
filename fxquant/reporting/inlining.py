"""Somebody else's SVG made fit to stand in the page: only drawing elements and attributes, and ids of its own."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup, escape

_DRAWING = """
    svg g path polygon polyline ellipse circle rect line text tspan title desc defs linearGradient radialGradient
    stop clipPath marker pattern
"""
_LOOKS = """
    id class viewBox transform d points x y x1 y1 x2 y2 cx cy r rx ry dx dy width height fill fill-opacity fill-rule
    stroke stroke-width stroke-opacity stroke-dasharray stroke-linecap stroke-linejoin stroke-miterlimit opacity
    text-anchor text-decoration font-family font-size font-weight font-style textLength lengthAdjust dominant-
    baseline baseline-shift offset stop-color stop-opacity gradientUnits gradientTransform spreadMethod clip-path
    markerWidth markerHeight refX refY orient marker-end marker-start patternUnits preserveAspectRatio
"""
_ELEMENTS, _ATTRIBUTES = frozenset(_DRAWING.split()), frozenset(_LOOKS.split())
_LOCAL = re.compile(r"url\(#([\w.:-]+)\)")
_INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def inline_svg(text: str, prefix: str) -> Markup:
    """The picture as markup for an HTML page; ids begin with `prefix`. ParseError where it is no XML.

    Scripts, styles, links, foreign objects, event handlers and references to anything else are left out. What a link
    held is kept.
    """
    root = ElementTree.fromstring(text)
    if _name(root.tag) != "svg":
        raise ElementTree.ParseError(f"the root is <{_name(root.tag)}>, not <svg>")
    parts: list[str] = []
    _write(root, prefix, parts)
    return Markup("".join(parts))


def natural_size(svg: str) -> tuple[int, int]:
    """Width and height in points, from the viewBox; (0, 0) where there is none."""
    found = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', svg)
    return (round(float(found[1])), round(float(found[2]))) if found else (0, 0)


def _write(element: ElementTree.Element, prefix: str, parts: list[str]) -> None:
    name = _name(element.tag)
    if name == "a":
        _write_content(element, prefix, parts)
    elif name in _ELEMENTS:
        parts.append(f"<{name}{_attributes(element, prefix)}>")
        _write_content(element, prefix, parts)
        parts.append(f"</{name}>")


def _write_content(element: ElementTree.Element, prefix: str, parts: list[str]) -> None:
    if element.text and element.text.strip():
        parts.append(str(escape(element.text)))
    for child in element:
        _write(child, prefix, parts)
        if child.tail and child.tail.strip():
            parts.append(str(escape(child.tail)))


def _attributes(element: ElementTree.Element, prefix: str) -> str:
    kept = ((name, _safe(name, value, prefix)) for name, value in element.attrib.items() if name in _ATTRIBUTES)
    return "".join(f' {name}="{escape(value)}"' for name, value in kept if value is not None)


def _safe(name: str, value: str, prefix: str) -> str | None:
    if name == "id":
        return f"{prefix}-{value}"
    if "url(" in value.lower():
        found = _LOCAL.fullmatch(value.strip())
        return f"url(#{prefix}-{found[1]})" if found else None
    return _INVISIBLE.sub("", value)


def _name(tag: object) -> str:
    """The name without its namespace; '' for comments and instructions, and for what is not SVG."""
    if not isinstance(tag, str):
        return ""
    space, _, name = tag.rpartition("}")
    return name if space in ("", "{http://www.w3.org/2000/svg") else ""
