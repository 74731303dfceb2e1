"""One self-contained HTML page with a picture and some text: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = (
    "body{margin:2rem auto;max-width:75rem;padding:0 1rem;font:15px/1.5 system-ui,sans-serif;color:#1a1a1a}"
    "figure{margin:1rem 0;overflow:auto;border:1px solid #ccc}figure svg{max-width:100%;height:auto;min-width:30rem}"
    "pre{overflow:auto;padding:1rem;background:#f5f5f5}"
)


def page(title: str, svg: str, texts: Iterable[str]) -> str:
    """The title, the picture (whose SVG is trusted: its labels are escaped by who drew it), then each text."""
    told = "".join(f"<pre>{escape(text)}</pre>\n" for text in texts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n<figure>{_element(svg)}</figure>\n{told}</body></html>\n"
    )


def _element(svg: str) -> str:
    """The <svg> element alone: an XML declaration and a doctype have no place inside HTML."""
    return svg[max(0, svg.find("<svg")) :]
