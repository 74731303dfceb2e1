"""Whatever happens in the block, the caller's world is as before."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from fxquant.sandbox import untouched_world
from support.asserts import world


def _disturb(folder) -> None:
    torch.manual_seed(torch.initial_seed() + 1)
    torch.rand(3)
    torch.set_grad_enabled(not torch.is_grad_enabled())
    torch.set_default_dtype(torch.float64)
    others = [name for name in torch.backends.quantized.supported_engines if name not in ("none", world()[3])]
    torch.backends.quantized.engine = others[0]
    torch.set_num_threads(torch.get_num_threads() + 1)
    warnings.filterwarnings("ignore", message="something")
    os.chdir(folder)


@pytest.mark.parametrize("fails", [False, True])
def test_the_world_is_put_back(tmp_path, fails):
    before = world()
    try:
        with untouched_world():
            _disturb(tmp_path)
            assert all(now != then for now, then in zip(world(), before, strict=True)), "the disturbance is complete"
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert world() == before


def test_a_filter_that_was_put_back_works_again():
    with pytest.raises(UserWarning, match="loud"):
        with untouched_world():
            warnings.simplefilter("ignore")
            warnings.warn("loud", stacklevel=1)
        warnings.warn("loud", stacklevel=1)


def test_it_nests_and_consumes_no_randomness():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with untouched_world(), untouched_world():
        torch.rand(5)
    assert torch.equal(torch.rand(1), expected)
