"""Every code that the source uses has a page, and every page has its parts."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

import fxquant
import fxquant.passes
import fxquant.tools

PAGES = {page.name.removesuffix(".md"): page for page in (files("fxquant") / "codes").iterdir()}
PARTS = ("## Why", "## What to do", "## Example")
FAMILIES = {"1", "2", "3", "4", "5", "6", "7", "8"}


def source_files() -> list[Path]:
    packages = (fxquant, fxquant.passes, fxquant.tools)
    return sorted({file for package in packages for file in Path(package.__path__[0]).rglob("*.py")})


def used_codes() -> set[str]:
    return {code for file in source_files() for code in re.findall(r'"(FXQ\d{3})"', file.read_text(encoding="utf-8"))}


def test_the_source_uses_codes_at_all():
    assert {"FXQ105", "FXQ210", "FXQ401"} <= used_codes()


@pytest.mark.parametrize("code", sorted(used_codes()))
def test_a_code_that_the_source_uses_has_a_page(code):
    assert code in PAGES, f"write fxquant/codes/{code}.md"


@pytest.mark.parametrize("code", sorted(PAGES))
def test_a_page_has_a_title_and_each_part_with_words_in_it(code):
    assert re.fullmatch(r"FXQ\d{3}", code) and code[3] in FAMILIES
    text = PAGES[code].read_text(encoding="utf-8")
    title, _, body = text.partition("\n")
    assert re.fullmatch(rf"# {code} \S.*", title)
    assert [line for line in body.splitlines() if line.startswith("## ")] == list(PARTS)
    means, why, fix, example = re.split(r"^## .*$", body, flags=re.MULTILINE)
    assert min(len(part.split()) for part in (means, why, fix)) >= 3
    assert all(line.startswith("    ") for line in example.strip("\n").splitlines() if line)


def test_a_page_mentions_only_codes_that_have_one():
    mentioned = {code for page in PAGES.values() for code in re.findall(r"FXQ\d{3}", page.read_text(encoding="utf-8"))}
    assert mentioned <= set(PAGES)
