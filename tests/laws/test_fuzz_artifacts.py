"""I25: a saved model that somebody changed is refused with a code, or is the same; and nothing runs. With and without a seal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fxquant
from fxquant.artifact import container
from fxquant.artifact.inspecting import check
from fxquant.errors import ArtifactError
from support.counting import counted
from support.guard import code_of_fx, guarded, signature_of_builtin
from support.mutations import mutated_bytes, mutated_json, mutated_text
from support.saved import resealed, saved, with_text

NAMES = ("mlp", "shared_conv_norm", "lstm")
MANY = settings(max_examples=settings().max_examples * 2)
LONGEST = 2000  # letters of a message


def is_refused(data: bytes) -> bool:
    """Is it refused, as it should be? Any other outcome but success is an error."""
    counted("mutation of a saved model")
    try:
        guarded(lambda: check(data), allow=signature_of_builtin)
    except ArtifactError as error:
        assert error.code.startswith("FXQ60") and len(str(error)) < LONGEST
        return True
    return False


@pytest.fixture(autouse=True, scope="module")
def warm(tmp_path_factory) -> None:
    """What is imported late is imported before the guard goes up."""
    for name in NAMES:
        path = tmp_path_factory.mktemp("saved") / "m.fxq.safetensors"
        path.write_bytes(saved(name))
        check(saved(name))
        fxquant.load(path)
    assert is_refused(with_text(saved(), "[")) and is_refused(b"")


@MANY
@given(st.data())
def test_any_change_is_refused_or_no_change(data):
    source, other = (saved(data.draw(st.sampled_from(NAMES))) for _ in range(2))
    found = data.draw(mutated_bytes(source, other))
    assert is_refused(found) or found in (source, other)


@MANY
@given(st.data())
def test_bytes_changed_under_a_seal_that_is_right(data):
    source, other = (saved(data.draw(st.sampled_from(NAMES))) for _ in range(2))
    is_refused(resealed(data.draw(mutated_bytes(source, other))))


def graph_of(name: str) -> str:
    return container.read(saved(name), "the file").text


@MANY
@given(data=st.data())
def test_values_changed_in_the_graph_under_a_seal(data, tmp_path_factory):
    """What passes every check is built, and building it runs nothing but the code that torch.fx writes for it."""
    name = data.draw(st.sampled_from(NAMES))
    text = data.draw(mutated_json(graph_of(name)) | mutated_text(graph_of(name), graph_of("mlp")))
    try:
        changed = with_text(saved(name), text)
    except (ArtifactError, UnicodeError):
        return  # the writer refuses it already
    if is_refused(changed):
        return
    path = tmp_path_factory.mktemp("changed") / "m.fxq.safetensors"
    path.write_bytes(changed)
    try:
        guarded(lambda: fxquant.load(path), allow=lambda *act: code_of_fx(*act) or signature_of_builtin(*act))
    except fxquant.FxQuantError as error:
        assert len(str(error)) < LONGEST


def test_truncated_at_every_offset_nothing_runs():
    source = saved()
    for length in range(0, len(source), 7):
        assert is_refused(source[:length])


def test_a_bit_flipped_in_every_byte_nothing_runs():
    broken = bytearray(saved())
    for place in range(0, len(broken), 7):
        broken[place] ^= 1 << place % 8
        assert is_refused(bytes(broken))
        broken[place] ^= 1 << place % 8
