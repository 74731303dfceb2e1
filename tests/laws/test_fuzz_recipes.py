"""I27: whatever is done to a recipe, it is read or refused with a code, in little time, and nothing runs. Row 36."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fxquant.errors import FxQuantError
from fxquant.policy import read_policy
from fxquant.recipe import MOST_BYTES, Recipe, RecipeRule, dump, load, parse
from fxquant.regexes import read_regex
from support.counting import counted
from support.drawn_recipes import recipes
from support.guard import guarded
from support.mutations import mutated_bytes, mutated_text, mutated_toml

MANY = settings(max_examples=settings().max_examples * 4)  # of the profile: a mutation costs a millisecond
CODES = {"FXQ101", "FXQ102", "FXQ103", "FXQ104"}
LONGEST = 2000  # letters of a message: a recipe of a megabyte is not echoed


def read(text: str) -> Recipe | None:
    """The recipe, or None where it is refused as it should be."""
    counted("mutation of a recipe")
    try:
        return guarded(lambda: parse(text))
    except FxQuantError as error:
        assert error.code in CODES and len(str(error)) < LONGEST
        return None


def assert_law(text: str) -> None:
    found = read(text)
    if found is None:
        return
    again = dump(found)
    assert parse(again) == found and dump(parse(again)) == again
    try:
        guarded(lambda: read_policy(found, target="x86"))
    except FxQuantError as error:
        assert error.code in CODES and len(str(error)) < LONGEST


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    """What is imported late is imported before the guard goes up."""
    read_policy(parse(dump(Recipe((RecipeRule(("*",), scheme="int8"),)))), target="x86")
    for text in ("schema = 2", "schema = 1\nrul = 3", 'schema = 1\n[[rule]]\ntargets = ["re:("]\nscheme = "int8"'):
        with pytest.raises(FxQuantError):
            parse(text)


@MANY
@given(st.data())
def test_letters_changed_in_a_recipe(data):
    source, other = dump(data.draw(recipes())), dump(data.draw(recipes()))
    assert_law(data.draw(mutated_text(source, other)))


@MANY
@given(st.data())
def test_lines_and_values_changed_in_a_recipe(data):
    assert_law(data.draw(mutated_toml(dump(data.draw(recipes())))))


@given(data=st.data())
def test_bytes_changed_in_a_recipe_file(data, tmp_path_factory):
    source, other = (dump(data.draw(recipes())).encode() for _ in range(2))
    path = tmp_path_factory.mktemp("recipe") / "my.toml"
    path.write_bytes(data.draw(mutated_bytes(source, other)))
    counted("mutation of a recipe")
    try:
        guarded(lambda: load(path))
    except FxQuantError as error:
        assert error.code in CODES and len(str(error)) < LONGEST


@pytest.mark.parametrize(
    "text",
    [
        "a = [" * 5000,
        "x = " + "{a=" * 5000,
        "a." * 20_000 + "b = 1",
        "schema = 1\n" + "[[rule]]\n" * 50_000,
        "schema = 1\nignore = [" + '"a",' * 200_000 + "]",
        "schema = 1\n" + "#" * (MOST_BYTES - 20),
        "schema = 1\nignore = ['re:" + "(" * 900 + "']",
        "schema = 1\n" + "k" * 500_000 + " = 1",
        "schema = " + "1" * 4000,
        'schema = 1\nignore = ["' + "\\u0041" * 100_000 + '"]',
        'schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = "' + "x" * 500_000 + '"',
    ],
    ids=lambda text: text[:24],
)
def test_large_and_deep_recipes(text):
    assert_law(text)


PIECES = (
    "a", "b", ".", "a?", "a*", "a+", "a{0,8}", "a{2,9}", ".*", ".*?", "[ab]", "[ab]*", "(a|b)", "(a|ab)", "(aa|a|x)", "(a*)",
    "(a?){8}", "(?:a|b){1,3}", "(?=a*)", "(?!b+)", "(a)\\1", "^", "$", "\\.", "\\d+", "(?P<n>a)(?(n)a|b)",
)  # fmt: skip


@MANY
@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=60).map("".join)
    | st.tuples(st.sampled_from(PIECES), st.integers(1, 60)).map(lambda drawn: drawn[0] * drawn[1] + "c"),
    st.integers(0, 300),
    st.sampled_from(("a", "ab", "a.", "aaab")),
)
@example("a?" * 40 + "b", 256, "a")
@example("(?:(?:(?:a?){8}){8}){8}b", 256, "a")
@example("(?:x|aa|a)" * 30 + "c", 256, "a")
@example("a{0,8}" * 40 + "b", 256, "a")
@example("(a+)+$", 256, "a")
def test_row_36_no_drawn_regex_takes_long(regex, length, unit):
    counted("drawn regex")
    try:
        guarded(lambda: read_regex(regex, "here").matches((unit * length)[:length]))
    except FxQuantError as error:
        assert error.code == "FXQ101"
