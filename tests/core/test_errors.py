"""An error is data: it goes through a pickle whole, as a worker process or a test runner sends it."""

from __future__ import annotations

import copy
import pickle

from fxquant.errors import FxQuantError, UnsupportedModelError
from fxquant.location import Location


def test_an_error_comes_out_of_a_pickle_as_it_went_in():
    error = UnsupportedModelError("FXQ202", "Net cannot be copied", hint="delete it", module="a.b")
    error.where, error.pass_name = Location("net.py", 3, "forward"), "fuse"
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is UnsupportedModelError and isinstance(again, FxQuantError)
        assert str(again) == str(error) and vars(again) == vars(error)
        assert "at net.py:3" in str(again) and "in pass 'fuse'" in str(again)
