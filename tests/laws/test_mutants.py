"""The faults of tests/mutants still fit the code, and the runner tells a killed one from a survivor.

All of them are judged by `python -m mutants` in the tests folder: it takes too long for every run.
"""

from __future__ import annotations

import pytest
from mutants.__main__ import ROOT, judged
from mutants.catalogue import MUTANTS, Mutant

needs_checkout = pytest.mark.skipif(
    not (ROOT / "passes").exists(), reason="the faults are planted in a copy of the checkout, which is not here"
)


@needs_checkout
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_still_fits_its_file(mutant):
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.before) == 1 and mutant.before != mutant.after


def test_there_are_at_least_twenty_of_different_names():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20


@needs_checkout
def test_the_runner_tells_a_killed_fault_from_one_that_survives():
    law = ("tests/core/test_numerics.py",)
    file, line = "fxquant/numerics.py", "    if noise == 0.0:\n        return math.inf\n"
    assert judged(Mutant("no noise is no signal", file, line, "    if noise == 0.0:\n        return 0.0\n", law)).killer
    assert not judged(Mutant("a comment", file, line, f"    # a comment\n{line}", law)).killer
