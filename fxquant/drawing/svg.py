"""Graphviz's SVG made fit for a page: no comments, links or doctype; own ids; as wide as there is room."""

from __future__ import annotations

from xml.etree import ElementTree

from fxquant.errors import RenderError

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


def tidy(rendered: bytes, prefix: str) -> str:
    """The <svg> element alone. Ids start with `prefix`, so that several pictures can stand in one page."""
    try:
        root = ElementTree.fromstring(rendered)
    except ElementTree.ParseError as error:
        raise RenderError("FXQ703", f"the renderer wrote no XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        if element.tag == "g":
            _set_title(element)
        if "id" in element.attrib:
            element.set("id", f"{prefix}-{element.get('id')}")
        for name, value in element.attrib.items():
            element.set(name, value.replace("url(#", f"url(#{prefix}-"))
    _widen(root)
    root.set("xmlns", SVG.strip("{}"))
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _set_title(group: ElementTree.Element) -> None:
    """Graphviz wraps what has a tooltip in a link that leads nowhere: the tooltip becomes the group's title."""
    titles = group.findall(f"{SVG}title")
    for inner in group.findall(f"{SVG}g"):
        link = inner.find(f"{SVG}a")
        if link is None:
            continue
        tip = link.get(f"{LINK}title")
        at = list(group).index(inner)
        group[at : at + 1] = list(link)
        if tip is not None and titles:
            titles[0].text = tip


def _widen(root: ElementTree.Element) -> None:
    width = root.attrib.pop("width", "")
    root.attrib.pop("height", None)
    root.set("style", f"max-width:{width or '100%'};width:100%;height:auto")
    root.set("role", "img")
