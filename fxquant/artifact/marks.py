"""What a node carries besides its call: origins, scope, the user's line, its part of a site, why it stays float."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from fxquant.artifact.text import int_of, list_of, malformed, text_of, texts_of
from fxquant.keep_float import is_kept_float, keep_float, kept_because
from fxquant.location import Location
from fxquant.origin import as_part, origins, part_of, restore, scope, where

_MOST_LINES = 10_000_000
_EMPTY: list[Any] = [[], "", None, "", None]


@dataclass
class Marks:
    """Writes and reads marks. Files of the user's code are a table: only their names, never their folders."""

    files: list[str] = field(default_factory=list)

    def written(self, node: fx.Node) -> list[Any]:
        """[origins, scope, line, part, kept]: less what is empty at its end. Two parts may hold the same text."""
        kept = kept_because(node) if is_kept_float(node) else None
        mark = [list(origins(node)), scope(node), self._line(where(node)), part_of(node), kept]
        while mark and mark[-1] in ([], "", None):
            mark.pop()
        return mark

    def _line(self, at: Location | None) -> list[Any] | None:
        if at is None:
            return None
        name = os.path.basename(at.file)
        if name not in self.files:
            self.files.append(name)
        return [self.files.index(name), at.line, at.function]

    def apply(self, node: fx.Node, mark: Any) -> None:
        """Put a mark on a node. FXQ604 for what `written` does not write."""
        what = f"the mark of '{node.name}'"
        found = list_of(mark, what)
        if len(found) > 5:
            raise malformed(f"{what} has {len(found)} items, not at most 5")
        origin, scope_name, line, part, kept = found + _EMPTY[len(found) :]
        at = None if line is None else self._location(line, what)
        restore(node, texts_of(origin, what), at=at, scope_name=text_of(scope_name, what))
        if text_of(part, what):
            as_part(node, part)
        if kept is not None:
            keep_float(node, text_of(kept, what))

    def _location(self, line: Any, what: str) -> Location:
        index, number, function = list_of(line, what, sizes=(3,))
        file = self.files[int_of(index, what, 0, len(self.files) - 1)]
        return Location(file, int_of(number, what, 0, _MOST_LINES), text_of(function, what), is_saved=True)
