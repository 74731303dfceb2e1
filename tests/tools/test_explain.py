"""`fxquant explain`: each page, the list, and what a misspelling gets."""

from __future__ import annotations

import json

import pytest

from fxquant.errors import UsageError
from fxquant.tools.cli import run
from fxquant.tools.explain import codes, find, page_of


def test_a_code_prints_its_page(capsys):
    assert run(["explain", "FXQ210"]) == 0
    assert capsys.readouterr().out == page_of("FXQ210")


def test_without_a_code_all_are_listed_with_their_titles(capsys):
    assert run(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(codes()) > 50
    assert "FXQ502  The engine is not there" in lines


@pytest.mark.parametrize("text", ["FXQ211", "fxq211", "211", " FXQ211 "])
def test_a_code_may_be_written_as_it_comes(text):
    assert find(text) == "FXQ211"


def test_json_has_the_page_and_the_list(capsys):
    assert run(["explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == codes()
    assert run(["explain", "FXQ301", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"code": "FXQ301", "title": codes()["FXQ301"], "page": page_of("FXQ301")}


def test_an_unknown_code_is_a_usage_error_with_the_nearest(capsys, monkeypatch):
    known = dict.fromkeys(("FXQ201", "FXQ211", "FXQ212", "FXQ213", "FXQ301"), "")
    monkeypatch.setattr("fxquant.tools.explain.codes", lambda: known)
    assert run(["explain", "FXQ21"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "FXQ105 no page for code 'FXQ21'\n  hint: did you mean 'FXQ213', 'FXQ212', 'FXQ211'?\n"


@pytest.mark.parametrize("text", ["", "zzz", "../../pyproject", "FXQ999", "FXQ210/../FXQ211", "１", "²"])
def test_whatever_is_no_code_is_fxq105(text):
    with pytest.raises(UsageError) as caught:
        find(text)
    assert caught.value.code == "FXQ105"
    assert f"'{text}'" in caught.value.message and caught.value.hint
