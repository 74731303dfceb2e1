"""The ledger as the report shows it: each layer's row with its kind, its line of code and the page of its code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from fxquant.reporting.kinds import Kind, kind_of
from fxquant.reporting.wording import short

if TYPE_CHECKING:
    from fxquant.graphs.snapshot import GraphSnapshot
    from fxquant.ledger import Ledger

_CODE = re.compile(r"FXQ\d{3}")


@dataclass(frozen=True, slots=True)
class Line:
    """One layer, in the words of the page. Texts are cut, not escaped: the template escapes."""

    number: int
    site: str
    module: str
    op: str
    requested: str
    effective: str
    kind: Kind
    reason: str
    code: str
    hint: str
    where: str  # 'file:line' of the user's code

    @property
    def is_float(self) -> bool:
        """Is it computed in float, at least in part?"""
        return self.kind in (Kind.FLOAT, Kind.MIXED)


@dataclass(frozen=True, slots=True)
class CodePage:
    """The page of a code, as `fxquant explain` prints it: parts of (heading, text, is_code)."""

    code: str
    title: str
    parts: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]


def lines_of(ledger: Ledger, traced: GraphSnapshot) -> tuple[Line, ...]:
    """Every layer in the order of the traced graph."""
    places = {origin: node.where for node in traced for origin in node.origins}
    tensorless = _tensorless(traced)
    return tuple(
        Line(
            number=number,
            site=row.site,
            module=short(row.module or row.site),
            op=short(row.op),
            requested=short(row.requested),
            effective=short(row.effective),
            kind=kind_of(row.effective, gives_tensor=row.site not in tensorless),
            reason=short(row.reason, 600),
            code=row.code if _CODE.fullmatch(row.code) else "",
            hint=short(row.hint, 600),
            where=short(places.get(row.site, "")),
        )
        for number, row in enumerate(ledger.layers, start=1)
    )


def _tensorless(traced: GraphSnapshot) -> set[str]:
    """Sites whose call gives no tensor; none where the graph was traced without an example, and nobody can tell."""
    if not any(node.values for node in traced if node.op != "placeholder"):
        return set()
    return {node.site for node in traced if not node.values}


def code_pages(codes: set[str]) -> tuple[CodePage, ...]:
    """The pages of these codes, in their order; a code of somebody else's pass has none."""
    folder = files("fxquant") / "codes"
    pages = ((code, folder / f"{code}.md") for code in sorted(codes) if _CODE.fullmatch(code))
    return tuple(_parsed(code, page.read_text(encoding="utf-8")) for code, page in pages if page.is_file())


def _parsed(code: str, text: str) -> CodePage:
    title, _, body = text.partition("\n")
    first, *others = re.split(r"^## (.*)$", body, flags=re.MULTILINE)
    named = [("", first), *zip(others[::2], others[1::2], strict=True)]
    return CodePage(code, title.removeprefix(f"# {code}").strip(), tuple((name, _blocks(part)) for name, part in named))


def _blocks(part: str) -> tuple[tuple[str, bool], ...]:
    """Paragraphs, and whether each is code (indented by four)."""
    blocks = [block.strip("\n") for block in re.split(r"\n\s*\n", part) if block.strip()]
    return tuple(
        (re.sub(r"^    ", "", block, flags=re.MULTILINE), True) if block.startswith("    ") else (block, False)
        for block in blocks
    )
