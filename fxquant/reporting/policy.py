"""What the page may do: nothing from elsewhere, and only the one style and the one script that are written into it."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def content_policy(style: str, script: str) -> str:
    """A Content-Security-Policy that allows these very texts by their hashes, and pictures in data: URLs."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def inert_json(data: Any) -> str:
    """JSON that can stand in a <script type="application/json">: no character of it can end the element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return "".join(_ESCAPED.get(character, character) for character in text)
