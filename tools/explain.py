"""`fxquant explain`: the offline page of each code, read from the package's `codes` folder."""

from __future__ import annotations

import json
from importlib.resources import files

import click

from fxquant.errors import UsageError, did_you_mean


def codes() -> dict[str, str]:
    """Every code that has a page, with its title."""
    pages = sorted(page.name for page in (files("fxquant") / "codes").iterdir() if page.name.endswith(".md"))
    return {name.removesuffix(".md"): _title(name.removesuffix(".md")) for name in pages}


def _title(code: str) -> str:
    first = page_of(code).partition("\n")[0]
    return first.removeprefix(f"# {code}").strip()


def page_of(code: str) -> str:
    """The page of a code that has one."""
    return (files("fxquant") / "codes" / f"{code}.md").read_text(encoding="utf-8")


def find(text: str) -> str:
    """The code that the user means: 'fxq210' and '210' are FXQ210. FXQ105 with the nearest codes when there is none."""
    known = codes()
    code = text.strip().upper()
    code = f"FXQ{code}" if code.isdigit() else code
    if code in known:
        return code
    if not code.startswith("FXQ"):
        raise UsageError("FXQ105", f"no page for code '{text}'", hint="`fxquant explain` lists all codes")
    begun = [other for other in known if other.startswith(code)]
    raise UsageError("FXQ105", f"no page for code '{text}'", hint=did_you_mean(code, begun or known))


@click.command()
@click.argument("code", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(code: str | None, as_json: bool) -> None:
    """Print the page of an error code; without one, list all."""
    if code is None:
        _list_all(as_json)
        return
    found = find(code)
    if as_json:
        print(json.dumps({"code": found, "title": _title(found), "page": page_of(found)}, indent=2))
        return
    print(page_of(found).rstrip())


def _list_all(as_json: bool) -> None:
    if as_json:
        print(json.dumps(codes(), indent=2))
        return
    for code, title in codes().items():
        print(f"{code}  {title}")
