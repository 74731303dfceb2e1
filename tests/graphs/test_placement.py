"""The minimum cut is the minimum over all assignments, and each conversion is paid once."""

from __future__ import annotations

import math
from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxquant.graphs.placement import Op, Placement, Problem, Value, place

MICRO = 1e-6


def every_choice(problem: Problem) -> list[frozenset[str]]:
    names = [op.name for op in problem.ops]
    return list(map(frozenset, chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))))


def rank(problem: Problem, int8: frozenset[str]) -> tuple[float, int, int]:
    """Time in picoseconds as they are counted, then what ties go by."""
    seconds = problem.seconds(int8)
    counted = seconds if math.isinf(seconds) else round(seconds * 1e12)
    return counted, problem.crossings(int8), len(int8)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """DAGs of up to ten ops; few distinct times, so that ties are common, and ops that can be done in one way only."""
    count = draw(st.integers(1, 10))
    times = st.integers(0, 6).map(lambda micros: micros * MICRO)
    ops = []
    for index in range(count):
        int8, float32 = draw(times), draw(times)
        kind = draw(st.sampled_from(["any", "any", "any", "float", "int8"]))
        bfloat16 = draw(times | st.just(math.inf))
        if kind == "float":
            int8 = math.inf
        elif kind == "int8":
            float32 = bfloat16 = math.inf
        ops.append(Op(f"op{index}", int8, float32, bfloat16))
    values = []
    for index in range(count - 1):
        later = [f"op{other}" for other in range(index + 1, count)]
        readers = draw(st.lists(st.sampled_from(later), unique=True, max_size=4))
        values.append(Value(f"op{index}", tuple(readers), draw(times), draw(times)))
    return Problem(tuple(ops), tuple(values))


@given(problems())
def test_the_cut_is_the_least_of_all_assignments_and_the_one_that_ties_go_to(problem: Problem) -> None:
    found = place(problem)
    ranked = sorted((rank(problem, int8), sorted(int8)) for int8 in every_choice(problem))
    least, chosen = ranked[0]
    assert rank(problem, found.int8) == least
    assert sorted(found.int8) == chosen
    assert len(ranked) == 1 or ranked[1][0] > least, "one assignment alone is first"


@given(problems())
def test_what_it_says_a_call_takes_is_the_cost_of_its_assignment(problem: Problem) -> None:
    found = place(problem)
    assert found == Placement(found.int8, problem.seconds(found.int8), problem.crossings(found.int8))
    assert math.isfinite(found.seconds)
    assert found == place(problem)


@given(problems())
def test_it_is_never_slower_than_everything_on_codes_or_in_float(problem: Problem) -> None:
    coded = frozenset(op.name for op in problem.ops if math.isfinite(op.int8))
    floating = frozenset(op.name for op in problem.ops if math.isinf(op.floating))
    assert place(problem).seconds <= min(problem.seconds(coded), problem.seconds(floating)) + 1e-15


def test_a_value_with_three_readers_is_converted_once() -> None:
    """Three readers that gain 2 µs each on codes pay one quantize of 5 µs; were it paid thrice they would not."""
    readers = tuple(f"reader{index}" for index in range(3))
    ops = (Op("source", math.inf, 0.0), *(Op(name, 1 * MICRO, 3 * MICRO) for name in readers))
    problem = Problem(ops, (Value("source", readers, 5 * MICRO, 5 * MICRO),))
    assert place(problem).int8 == set(readers)
    assert place(problem).seconds == pytest.approx(8 * MICRO)
    two = Problem(ops[:3], (Value("source", readers[:2], 5 * MICRO, 5 * MICRO),))
    assert place(two).int8 == frozenset()


def test_a_small_op_between_float_islands_stops_paying_for_the_crossing() -> None:
    ops = (Op("softmax", math.inf, 4 * MICRO), Op("small", 1 * MICRO, 3 * MICRO), Op("norm", math.inf, 4 * MICRO))
    dear = (
        Value("softmax", ("small",), 2 * MICRO, 2 * MICRO),
        Value("small", ("norm",), 2 * MICRO, 2 * MICRO),
    )
    assert place(Problem(ops, dear)).int8 == frozenset()
    free = tuple(Value(value.producer, value.readers, 0.5 * MICRO, 0.5 * MICRO) for value in dear)
    assert place(Problem(ops, free)).int8 == {"small"}


def test_what_takes_the_same_time_goes_to_fewer_boundaries_and_then_to_float() -> None:
    alike = (Op("first", MICRO, MICRO), Op("second", MICRO, MICRO))
    assert place(Problem(alike, (Value("first", ("second",), 0.0, 0.0),))).int8 == frozenset()
    coded = (Op("first", 0.0, math.inf), Op("second", MICRO, MICRO))
    assert place(Problem(coded, (Value("first", ("second",), 0.0, 0.0),))).int8 == {"first", "second"}


def test_the_better_float_format_counts() -> None:
    op = Op("layer", 2 * MICRO, 3 * MICRO, 1 * MICRO)
    assert place(Problem((op,), ())) == Placement(frozenset(), 1 * MICRO, 0)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (Problem((Op("a", math.inf, math.inf),), ()), "'a' can be done neither on codes nor in float"),
        (Problem((Op("a", 1.0, 1.0), Op("a", 1.0, 1.0)), ()), "two ops have the same name"),
        (Problem((Op("a", 1.0, 1.0),), (Value("a", ("b",), 1.0, 1.0),)), "'b', which is no op"),
        (Problem((Op("a", -1.0, 1.0),), ()), "a time of 'a' is -1.0"),
        (Problem((Op("a", math.nan, 1.0),), ()), "a time of 'a' is nan"),
        (
            Problem((Op("a", 1.0, math.inf), Op("b", math.inf, 1.0)), (Value("a", ("b",), 0.0, math.inf),)),
            "no assignment",
        ),
    ],
)
def test_nonsense_is_refused_by_name(problem: Problem, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        place(problem)


def test_a_large_graph_is_cut_in_no_time() -> None:
    """A chain of 600 layers with skip connections, some without int8 kernels."""
    ops = tuple(Op(f"op{i}", math.inf if i % 7 == 0 else (i % 5) * MICRO, (i % 3 + 1) * MICRO) for i in range(600))
    values = tuple(
        Value(f"op{i}", tuple(f"op{j}" for j in (i + 1, i + 4) if j < 600), MICRO, MICRO) for i in range(599)
    )
    assert place(Problem(ops, values)).seconds <= Problem(ops, values).seconds(frozenset())
