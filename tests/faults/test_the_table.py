"""docs/faults.md, the published table of bad input: each row once, each held by a test that speaks of its codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fault_table import FaultRow, codes_told, fault_rows, functions_of, numbers_in_name

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "faults.md"

NUMBERS = [*(str(number) for number in range(1, 79)), "7a", "7b"]

pytestmark = pytest.mark.skipif(
    not PAGE.exists(), reason="beside the built wheel there is no docs folder: the checkout's run has it"
)


def rows() -> list[FaultRow]:
    return fault_rows(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else []


def linked() -> list[tuple[FaultRow, str, Path]]:
    """(row, test, file) of each link."""
    return [(row, test, (PAGE.parent / link).resolve()) for row in rows() for test, link in row.links]


def row_tests() -> list[str]:
    """Every test of this folder that has a row's number in its name."""
    files = sorted(HERE.glob("test_*.py"))
    return [name for file in files for name in sorted(functions_of(file)) if numbers_in_name(name)]


def test_each_row_is_there_once_with_all_its_cells():
    assert sorted(row.number for row in rows()) == sorted(NUMBERS)
    assert [row.number for row in rows() if len(row.cells) != 4 or not all(row.cells)] == []


def test_the_rows_stand_in_order():
    found = [int(row.number.rstrip("ab")) for row in rows()]
    assert found == sorted(found)


def test_each_row_has_a_test():
    assert [row.number for row in rows() if not row.links] == []


def test_each_link_leads_to_a_test_of_that_name():
    assert linked()
    missing = [f"row {row.number}: {file.name}" for row, _, file in linked() if not file.is_file()]
    assert missing == []
    assert [f"row {row.number}: {test}" for row, test, file in linked() if test not in functions_of(file)] == []


def test_a_row_links_no_test_of_another_row():
    strangers = [
        (row.number, test) for row, test, _ in linked() if row.number not in (numbers_in_name(test) or (row.number,))
    ]
    assert strangers == []


def test_every_code_has_a_page():
    from importlib.resources import files

    pages = {page.name.removesuffix(".md") for page in (files("fxquant") / "codes").iterdir()}
    told = {code: row.number for row in rows() for code in row.codes}
    assert told and told.keys() <= pages, told.keys() - pages


@pytest.mark.parametrize("number", NUMBERS)
def test_every_code_of_a_row_is_in_one_of_its_tests(number):
    [row] = [row for row in rows() if row.number == number]
    told = {code for test, link in row.links for code in codes_told((PAGE.parent / link).resolve(), test, number)}
    assert row.codes <= told, f"row {number}: no linked test speaks of {sorted(row.codes - told)}"


def test_every_test_of_a_row_is_in_the_table():
    named = {(number, test) for row in rows() for test, _ in row.links for number in [row.number]}
    assert row_tests()
    absent = [(n, test) for test in row_tests() for n in numbers_in_name(test) if (n, test) not in named]
    assert absent == []


SOURCE = """
ROWS = [(1, "FXQ101"), (2, "FXQ102")]
TABLE = {3: "FXQ103", 4: "FXQ104"}
def helper(): return "FXQ105"
def test_one(): return ROWS, helper()
def test_two(): return TABLE
"""


def test_the_checker_sees_the_codes_of_the_row_and_no_others(tmp_path):
    file = tmp_path / "test_it.py"
    file.write_text(SOURCE)
    assert codes_told(file, "test_one", "1") == {"FXQ101", "FXQ105"}
    assert codes_told(file, "test_one", "2") == {"FXQ102", "FXQ105"}
    assert codes_told(file, "test_two", "4") == {"FXQ104"}
    assert codes_told(file, "absent", "1") == set()
    assert functions_of(file) == {"helper", "test_one", "test_two"}


def test_a_row_is_read_as_it_stands():
    page = "| Row | a |\n|---|---|\n| 7a | in | out FXQ211 | [test_row_7a_x](../tests/x.py)<br>[test_y](../y.py) |\n"
    [row] = fault_rows(page)
    assert (row.number, row.codes) == ("7a", {"FXQ211"})
    assert row.links == (("test_row_7a_x", "../tests/x.py"), ("test_y", "../y.py"))
    assert numbers_in_name("test_rows_49_and_50_bad") == ("49", "50") and numbers_in_name("test_y") == ()
