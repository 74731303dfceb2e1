"""Locations are the user's lines: not torch's, not this package's, not generated code."""

from __future__ import annotations

import sys

import torch

from fxquant.location import Location, innermost, of_frame, of_function, of_traceback


def test_a_location_shows_its_line():
    at = Location(__file__, 7, "f")
    assert at.text == "import torch" and str(at) == f"{__file__}:7, in f:  import torch"
    assert str(Location("nowhere.py", 3, "f")) == "nowhere.py:3, in f"


def test_the_innermost_user_frame_counts():
    torch_file, ours = torch.nn.modules.linear.__file__, sys.modules["fxquant.location"].__file__
    frames = [("a.py", 1, "a"), ("b.py", 2, "b"), (torch_file, 3, "t"), (ours, 4, "o"), ("<eval>", 5, "g")]
    assert innermost(frames) == Location("b.py", 2, "b")
    assert innermost(frames[2:]) is None


def test_a_folder_of_the_user_called_torch_is_the_users():
    frames = [("/home/me/torch/model.py", 1, "forward")]
    assert innermost(frames) == Location("/home/me/torch/model.py", 1, "forward")


def test_a_traceback_inside_torch_gives_the_calling_line():
    try:
        torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 5))
    except RuntimeError as error:
        at = of_traceback(error.__traceback__)
    assert at.file == __file__ and at.text.startswith("torch.nn.functional.linear(")
    assert of_traceback(None) is None


def test_a_frame_walk_stops_where_it_is_told():
    def inner():
        return of_frame(sys._getframe(), stop=outer.__code__), of_frame(sys._getframe(), stop=inner.__code__)

    def outer():
        return inner()

    found, stopped = outer()
    assert found.function == "inner" and found.file == __file__ and stopped is None


def test_of_function():
    assert of_function(test_of_function).function == "test_of_function"
    assert of_function(len) is None and of_function(torch.nn.Linear.forward) is None


def test_the_models_of_the_demo_are_a_users_where_they_are_installed():
    ours = sys.modules["fxquant.location"].__file__
    model = ours.replace("location.py", "tools/demo_model.py")  # a wheel has tools/ in the package
    assert innermost([(model, 71, "forward")]) == Location(model, 71, "forward")
