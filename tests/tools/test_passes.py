"""`fxquant passes`: the registry as a table."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest

from fxquant import registry
from fxquant.registry import names
from fxquant.tools.cli import run
from fxquant.tools.passes import rows


def test_every_pass_of_the_registry_has_a_row_in_its_order(capsys):
    assert run(["passes", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(names())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_a_built_in_pass_can_be_imported_and_says_what_it_does(row):
    assert not row.is_broken, row.does
    assert row.does and row.accepts and row.yields


def test_the_table_shows_each_pass(capsys):
    assert run(["passes"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in names())


def test_a_third_partys_broken_package_is_a_row_and_a_status_and_hides_nothing(monkeypatch, capsys):
    broken = EntryPoint("their-pass", "no_such_package:[red]TheirPass", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    assert run(["passes"]) == 1
    told = capsys.readouterr().out
    assert "their-pass" in told and "cannot be imported" in told and "functionalize" in told
