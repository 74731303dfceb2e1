"""Reports to look at: stand-ins for the renderer, a page taken apart, and a model whose every text is somebody's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import fxquant
from fxquant.errors import FxQuantError
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord, TensorInfo
from fxquant.ledger import Ledger
from fxquant.pipeline import PassRecord
from fxquant.program import Stage
from support.compiling import compile_model
from support.models import MODELS

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="90pt" height="60pt" viewBox="0.00 0.00 90.00 60.00">'
    '<g id="node1" class="node"><title>n</title><ellipse fill="white" stroke="black" cx="45" cy="30" rx="27" ry="18"/>'
    '<text text-anchor="middle" x="45" y="34" font-size="14">{}</text></g></svg>'
)


@dataclass(frozen=True)
class Drawn:
    """What a renderer gives: an SVG text, or an error when it is asked for one."""

    text: str = SVG
    error: FxQuantError | None = None
    dot: str = 'digraph { "</script><b>" }'
    notes: tuple[str, ...] = ("collapsed to depth 2",)

    def svg(self, *, timeout: float | None = None) -> str:
        if self.error is not None:
            raise self.error
        return self.text


def draw(subject: Any, **_: Any) -> Drawn:
    """A renderer that draws everything alike."""
    return Drawn()


def draw_nothing(subject: Any, **_: Any) -> Drawn:
    """No renderer is installed."""
    return Drawn(error=FxQuantError("FXQ701", "no graphviz is here", hint="apt-get install graphviz"))


@cache
def compiled_pair(name: str) -> tuple[Any, fxquant.CompiledModel]:
    """A zoo model and what it was compiled to; both are kept, so that one can be measured against the other."""
    case = MODELS[name]
    model = case.make()
    return model, compile_model(model, "int8", case)


def settled(compiled: fxquant.CompiledModel) -> fxquant.CompiledModel:
    """The same model with made-up timings, which do not differ from run to run."""
    compiled._history = tuple(
        replace(record, seconds=0.001 * (index + 1)) for index, record in enumerate(compiled._history)
    )
    return compiled


@dataclass
class Page(HTMLParser):
    """A page taken apart: its elements in order, the raw text of scripts and styles, and all that can be read."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    raw: list[tuple[str, dict[str, str | None], str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, text: str) -> Page:
        page = cls()
        HTMLParser.__init__(page, convert_charrefs=True)
        page.feed(text)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            tag, attributes, text = self.raw[-1]
            self.raw[-1] = (tag, attributes, text + data)
        else:
            self.texts.append(data)

    def with_attribute(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if name in attributes]

    @property
    def text(self) -> str:
        return "".join(self.texts)


def called(text: str) -> Any:
    """What a report reads of a compiled model, where every name, reason and line is `text`."""
    value = (TensorInfo("float32", (2, 8)),)
    before = GraphSnapshot(
        (
            NodeRecord("x", "placeholder", "x", "x", origins=("x",), values=value),
            NodeRecord(text, "call_module", text, text, "(%x)", ("x",), ("a",), text, text, ((text, text),), value),
        ),
        text,
    )
    changed = replace(before.nodes[1], kind=f"{text}!", attributes=((text, f"{text}!"),))
    after = GraphSnapshot((before.nodes[0], changed), text)
    ledger = Ledger()
    ledger.open("a", module=text, op=text)
    ledger.request("a", text, text)
    ledger.settle_site("a", text, text, module=text, code="FXQ207", hint=text)
    ledger.notice("FXQ507", text, module=text, hint=text)
    return SimpleNamespace(
        stage=Stage.PREPARED,
        first_stage=Stage.TRACED,
        target="x86",
        ledger=ledger,
        program=SimpleNamespace(model_name=text),
        history=(PassRecord(text, Stage.PREPARED, before, after, 0.01),),
        snapshot=lambda stage: before if stage is Stage.TRACED else after,
        size_bytes=lambda: 1000,
    )
