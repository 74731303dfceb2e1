"""@quantization_test: a passing and a failing test as pytest shows them, FXQ122, marks, the summary, and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from fxquant.errors import FxQuantError
from fxquant.testing import quantization_test

HEAD = """
import pytest, torch, fxquant.testing
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
data = [torch.randn(64, 4)]
"""
PASSING = (
    HEAD
    + """
@pytest.mark.slow
@fxquant.testing.quantization_test(model, "int8", calibration_data=data, max_examples=15)
def test_it_holds(compiled, x):
    assert compiled(x).shape == (len(x), 2)
"""
)
FAILING = (
    HEAD
    + """
with torch.no_grad():  # one input that is always zero has weights that take all the codes
    model[0].weight[0], model[0].bias[0] = 0, 0
    model[2].weight[:, 0] = 3000

@fxquant.testing.quantization_test(model, "int8", calibration_data=data, bound=False, min_sqnr_db=20, max_examples=40)
def test_it_fails(compiled, x):
    pass
"""
)
PLAIN = "def test_nothing():\n    pass\n"


def run(folder, text, *options):
    (folder / "test_mine.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers"]
    command += ["-o", "markers=slow: takes long", *options, "test_mine.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=200
    )


def test_a_passing_test_is_counted_in_the_summary(tmp_path):
    done = run(tmp_path, PASSING)
    assert done.returncode == 0, done.stdout
    assert "quantization tests" in done.stdout
    assert "test_it_holds: 15 inputs held, SQNR at least" in done.stdout and "within the bound of each" in done.stdout


def test_a_failing_test_shows_layer_row_remedy_and_smallest_input(tmp_path):
    done = run(tmp_path, FAILING)
    assert done.returncode == 1
    wanted = (
        "the output's SQNR is",
        "at least 20 dB is asked",
        "the error enters at '2' (Linear)",
        "asked: static quint8",
    )
    for text in (*wanted, 'mapping.set_module_name("2", None)', 'ignore = ["2"]', "on the input:"):
        assert text in done.stdout
    assert "input = torch.tensor([[" in done.stdout and "def check_sqnr" not in done.stdout


def test_marks_under_and_over_the_decorator_are_kept(tmp_path):
    assert "1 deselected" in run(tmp_path, PASSING, "-m", "not slow").stdout
    under = PASSING.replace("@pytest.mark.slow\n", "").replace("def test_it", "@pytest.mark.slow\ndef test_it")
    assert "1 deselected" in run(tmp_path, under, "-m", "not slow").stdout


def test_other_runs_have_no_summary_and_import_neither_torch_nor_hypothesis(tmp_path):
    assert "quantization tests" not in run(tmp_path, PLAIN).stdout
    code = "import sys, fxquant.testing.plugin; sys.exit(bool({'torch', 'hypothesis'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


def test_nothing_asked_is_refused():
    with pytest.raises(FxQuantError, match="nothing is tested") as refused:
        quantization_test(nn.Linear(2, 2), "int8", bound=False)
    assert refused.value.code == "FXQ122"


@pytest.mark.parametrize("body", [lambda: None, lambda **named: None, lambda *, compiled: None])
def test_a_body_that_takes_no_model_is_refused(body):
    with pytest.raises(FxQuantError, match="takes no compiled model") as refused:
        quantization_test(nn.Linear(2, 2), "int8")(body)
    assert refused.value.code == "FXQ122"


def test_a_model_that_was_never_calibrated_is_refused():
    with pytest.raises(FxQuantError, match="is not calibrated") as refused:
        quantization_test(nn.Linear(2, 2).eval(), "int8", example_inputs=torch.ones(1, 2))(lambda compiled, x: None)()
    assert refused.value.code == "FXQ122"


class Swapped(nn.Module):
    """A custom module that is kept as a leaf."""

    def forward(self, x):
        return x.flip(-1)


class Picture(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.again = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.swap, self.head = Swapped(), nn.Linear(4, 2)

    def forward(self, x):
        y = torch.relu(self.conv(x))
        return self.head((self.swap(self.again(y)) + y).mean((2, 3)))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.gru = nn.Embedding(11, 6), nn.GRU(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens):
        _, last = self.gru(self.embedding(tokens))
        return self.head(last[-1])


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 4), nn.Linear(3, 4), nn.Linear(8, 2)

    def forward(self, a, *, b):
        both = torch.cat((self.left(a), self.right(b)), 1)
        return {"logits": self.head(torch.relu(both)), "features": both}


def seeded(kind):
    torch.manual_seed(0)
    return kind().eval()


@quantization_test(
    seeded(Picture), "int8", calibration_data=[torch.randn(8, 2, 5, 5)], leaf_modules=[Swapped], min_sqnr_db=-100,
    max_examples=15,
)  # fmt: skip
def test_a_picture_model_with_a_leaf_of_its_own(compiled, x):
    assert compiled(x).shape == (len(x), 2)


@quantization_test(
    lambda: seeded(Words), "int8", calibration_data=[torch.randint(0, 11, (8, 6))], min_sqnr_db=-100, max_examples=15
)
def test_a_classifier_of_tokens(compiled, tokens):
    assert int(tokens.max()) < 11 if tokens.numel() else True
    assert compiled(tokens).shape == (len(tokens), 3)


@quantization_test(
    seeded(Both), "int8", calibration_data=[((torch.randn(8, 4),), {"b": torch.randn(8, 3)})], max_examples=15
)
def test_two_inputs_and_a_dict(compiled, a, *, b):
    assert compiled(a, b=b)["logits"].shape == (len(a), 2)
