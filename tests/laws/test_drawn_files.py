"""Laws of files on drawn models: the same bytes twice (I23), and what comes back is what went in (I24)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fxquant
from fxquant.artifact.saving import to_bytes
from fxquant.errors import ArtifactError
from support.asserts import assert_same
from support.drawn_models import compiled, drawn, engines, policies
from support.scale import examples


@examples(0.7)
@given(spec=drawn(), asked=policies, target=engines)
def test_i23_compiling_twice_gives_the_same_bytes(spec, asked, target):
    first, second = (to_bytes(compiled(spec, asked, target)) for _ in range(2))
    assert first == second


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn") / "model.fxq.safetensors"


@examples(1.5)
@given(spec=drawn(), asked=policies, target=engines, probe=st.booleans())
def test_i24_a_loaded_model_gives_the_same_bits_and_the_same_file(path, spec, asked, target, probe):
    made = compiled(spec, asked, target)
    path.write_bytes(to_bytes(made, has_probe=probe))
    back = fxquant.load(path)
    assert to_bytes(back, has_probe=probe) == path.read_bytes()
    assert (back.target, back.stage) == (made.target, made.stage)
    for seed in range(2):
        args = spec.inputs(seed, 3)
        assert_same(back(*args), made(*args))
    assert_same(dict(sorted(back.state_dict().items())), dict(sorted(made.state_dict().items())))
    assert [row.effective for row in back.ledger.layers] == [row.effective for row in made.ledger.layers]


@examples(0.5)
@given(spec=drawn(most_ops=4), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_i25_one_bit_anywhere_is_noticed(path, spec, place, bit):
    data = bytearray(to_bytes(compiled(spec)))
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError), torch.random.fork_rng():
        fxquant.load(path)
