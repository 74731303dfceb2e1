"""Names in charts: each beside its dot, none over another, where there is room; and the laws of the Pareto front."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fxquant.comparing.pareto import front
from fxquant.comparing.placing import Box, place

PLACES = st.tuples(st.floats(20, 480), st.floats(20, 280))
POINTS = st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8)
FRAME = Box(250, 150, 250, 150)


def boxes(placed, size):
    return [Box(at.x, at.y, size[0] / 2, size[1] / 2) for at in placed]


@given(st.lists(PLACES, max_size=6))
def test_few_names_never_cover_one_another_a_dot_or_the_frame(dots):
    size = (14.0, 10.0)
    placed = place(dots, [size] * len(dots), [], FRAME, radius=5)
    found = boxes(placed, size)
    for index, box in enumerate(found):
        assert box.is_inside(FRAME)
        assert not any(box.overlaps(other) for other in found[:index])
        assert not any(box.overlaps(Box(x, y, 5, 5)) for x, y in dots)


def test_a_name_keeps_clear_of_a_line_and_leads_back_where_it_is_far():
    dots, lines = [(250.0, 150.0)], [[(200.0, y), (300.0, y)] for y in (135.0, 140.0, 160.0, 165.0)]
    [placed] = place(dots, [(30.0, 10.0)], lines, FRAME, radius=5)
    assert not any(abs(placed.y - y) < 5 and abs(placed.x - 250) < 65 for y in (135.0, 140.0, 160.0, 165.0))
    [alone] = place(dots, [(30.0, 10.0)], [], FRAME, radius=5)
    assert not alone.is_far and abs(alone.y - 150) < 20


def test_where_nothing_is_free_a_name_still_stands_somewhere():
    assert len(place([(5.0, 5.0)] * 4, [(400.0, 300.0)] * 4, [], Box(5, 5, 5, 5), radius=5)) == 4


@given(POINTS)
def test_what_is_off_the_front_is_beaten_by_a_point_on_it(points):
    best = front(points)
    assert bool(best) == bool(points)
    for name, own in points.items():
        beaten = [
            other
            for other in best
            if points[other] != own and all(a <= b for a, b in zip(points[other], own, strict=True))
        ]
        assert (name in best) != bool(beaten)


@given(POINTS)
def test_the_front_of_the_front_is_itself(points):
    best = front(points)
    assert front({name: points[name] for name in best}) == best
