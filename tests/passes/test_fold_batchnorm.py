"""fold-batchnorm: the algebra for every layer type, what is left alone and why, and where torch's own is wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fxquant.capture import capture
from fxquant.ledger import Ledger
from fxquant.passes.fold_batchnorm import FoldBatchnorm, fold
from fxquant.passes.skip_batchnorm import SkipBatchnorm
from fxquant.pipeline import Pipeline
from fxquant.request import CaptureRequest
from support.asserts import assert_pass, untouched
from support.tracing import call, run_passes, trace

CONVS = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TRANSPOSED = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
NORMS = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]


def lived_in(norm, seed=0):
    """A batch norm whose statistics and affine parameters are not the fresh ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.data.copy_(values.abs() + 0.5 if name == "running_var" else values)
    return norm


def relative(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


class Chain(nn.Module):
    """layer → norm → relu."""

    def __init__(self, layer, norm):
        super().__init__()
        self.layer, self.norm, self.act = layer, norm, nn.ReLU()

    def forward(self, x):
        return self.act(self.norm(self.layer(x)))


def pieces(dimensions, *, transposed=False, groups=1, affine=True, bias=True, stride=1, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    kind = (TRANSPOSED if transposed else CONVS)[dimensions - 1]
    layer = kind(2 * groups, 3 * groups, 3, stride=stride, groups=groups, bias=bias, dtype=dtype)
    norm = NORMS[dimensions - 1](3 * groups, affine=affine, dtype=dtype)
    return layer, lived_in(norm, seed), torch.randn(2, 2 * groups, *[6] * dimensions, dtype=dtype)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_fires_on_each_convolution(dimensions, transposed):
    layer, norm, x = pieces(dimensions, transposed=transposed, groups=2)
    program, ledger = assert_pass(FoldBatchnorm(), Chain(layer, norm), x, rtol=1e-5, atol=1e-5)
    assert [node.name for node in program.graph.nodes] == ["x", "layer", "act", "output"]
    assert ledger["norm"].effective == "folded into layer"
    assert not hasattr(program.graph_module, "norm")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_fires_on_linear_with_two_dimensions(affine, bias):
    model = Chain(nn.Linear(4, 5, bias=bias), lived_in(nn.BatchNorm1d(5, affine=affine)))
    program, ledger = assert_pass(FoldBatchnorm(), model, torch.randn(3, 4), rtol=1e-5, atol=1e-5)
    assert ledger["norm"].effective == "folded into layer"
    assert type(program.graph_module.layer) is nn.Linear


def test_linear_with_three_dimensions_is_declined():
    """There BatchNorm1d normalizes dimension 1, which only happens to be as long as the features."""
    model = Chain(nn.Linear(4, 5), lived_in(nn.BatchNorm1d(5)))
    _, ledger = assert_pass(FoldBatchnorm(), model, torch.randn(3, 5, 4), changes=False)
    assert ledger["norm"].code == "FXQ205" and "3-D" in ledger["norm"].reason


def test_linear_of_unknown_rank_is_declined():
    model = Chain(nn.Linear(4, 5), nn.BatchNorm1d(5)).eval()
    _, ledger = run_passes(FoldBatchnorm(), model)
    assert ledger["norm"].code == "FXQ205" and "example inputs" in ledger["norm"].reason


class Flattened(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.conv, self.fc, self.norm, self.how = nn.Conv2d(1, 2, 3), nn.Linear(32, 5), lived_in(nn.BatchNorm1d(5)), how

    def forward(self, x):
        return self.norm(self.fc(self.how(torch.relu(self.conv(x)))))


@pytest.mark.parametrize(
    "how",
    [
        lambda y: y.flatten(1),
        lambda y: torch.flatten(y, 1),
        lambda y: y.view(-1, 32),
        lambda y: y.reshape(y.size(0), -1),
        lambda y: y.view((-1, 32)),
        nn.Flatten(),
    ],
)
def test_rank_is_read_off_the_graph_without_example_inputs(how):
    model = Flattened(how).eval()
    x = torch.randn(2, 1, 6, 6)
    program, ledger = run_passes(FoldBatchnorm(), model)
    assert ledger["norm"].effective == "folded into fc"
    torch.testing.assert_close(call(program, x), model(x), rtol=1e-5, atol=1e-5)


class Head(nn.Module):
    """A head whose input's rank only a run can tell, and a counter that the run must not move."""

    def __init__(self, before):
        super().__init__()
        self.before, self.fc, self.norm = before, nn.Linear(4, 5), lived_in(nn.BatchNorm1d(5))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(x.new_ones(()))
        return self.norm(self.fc(self.before(x)))


def test_rank_is_tried_on_example_inputs_without_writing_to_buffers():
    x, model = torch.randn(3, 4, 2, 2), Head(lambda x: x.mean((2, 3))).eval()
    traced, ledger = trace(model, x)
    with untouched():
        program, _ = Pipeline((FoldBatchnorm(),)).run(traced, ledger)
    assert ledger["norm"].effective == "folded into fc"
    assert program.graph_module.calls == 0


class Counts(nn.Module):
    """A leaf that draws random numbers, writes to its input and to itself."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.add_(torch.rand(()))


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("not today")


def captured(leaf):
    x, ledger = torch.ones(3, 4), Ledger()
    return capture(CaptureRequest(Head(leaf).eval(), (x,), leaf_modules=(type(leaf),)), ledger), ledger


def test_the_trial_leaves_no_trace():
    program, ledger = captured(Counts())
    with untouched():
        Pipeline((FoldBatchnorm(),)).run(program, ledger)
    assert ledger["norm"].effective == "folded into fc"
    assert program.graph_module.before.calls == 0
    assert torch.equal(program.example_leaves[0], torch.ones(3, 4))


def test_a_trial_that_fails_is_no_answer():
    program, ledger = captured(Fails())
    Pipeline((FoldBatchnorm(),)).run(program, ledger)
    assert ledger["norm"].code == "FXQ205" and "2-D" in ledger["norm"].reason


@settings(deadline=None, max_examples=60)
@given(
    dimensions=st.integers(1, 3),
    transposed=st.booleans(),
    groups=st.integers(1, 4),
    affine=st.booleans(),
    bias=st.booleans(),
    stride=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_law_folding_keeps_the_numbers(dtype, **drawn):
    """I16: 1e-5 relative in float32, 1e-12 in float64."""
    layer, norm, x = pieces(dtype=dtype, **drawn)
    layer, norm = layer.eval(), norm.eval()
    with torch.no_grad():
        assert relative(fold(layer, norm)(x), norm(layer(x))) <= {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]


@settings(deadline=None, max_examples=30)
@given(
    width=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    batch=st.integers(1, 4),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_law_folding_into_linear_keeps_the_numbers(width, batch, bias, dtype, seed):
    torch.manual_seed(seed)
    layer, norm = (
        nn.Linear(*width, bias=bias, dtype=dtype),
        lived_in(nn.BatchNorm1d(width[1], dtype=dtype), seed).eval(),
    )
    x = torch.randn(batch, width[0], dtype=dtype)
    with torch.no_grad():
        assert relative(fold(layer, norm)(x), norm(layer(x))) <= {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_transposed_convolution_is_right_here_and_wrong_in_torch(groups):
    """pytorch #180995: torch's scale ignores groups, which fails as it folds, or (depthwise) as it runs."""
    layer = nn.ConvTranspose2d(4, 4, 3, groups=groups).eval()
    norm, x = lived_in(nn.BatchNorm2d(4)).eval(), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        assert relative(fold(layer, norm)(x), norm(layer(x))) <= 1e-5
        with pytest.raises(RuntimeError, match=r"size of tensor a|expected bias"):
            fuse_conv_bn_eval(layer, norm, transpose=True)(x)


def test_a_run_of_batch_norms_folds_as_a_whole():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.first, self.second = (
                nn.Conv2d(1, 3, 3),
                lived_in(nn.BatchNorm2d(3)),
                lived_in(nn.BatchNorm2d(3), 1),
            )

        def forward(self, x):
            return self.second(self.first(self.conv(x)))

    program, ledger = run_passes((SkipBatchnorm(), FoldBatchnorm()), Twice(), torch.randn(1, 1, 4, 4))
    assert [node.name for node in program.graph.nodes] == ["x", "conv", "output"]
    assert ledger["first"].effective == ledger["second"].effective == "folded into conv"
    assert_pass(FoldBatchnorm(), Twice(), torch.randn(1, 1, 4, 4), rtol=1e-5, atol=1e-5)


def test_one_batch_norm_after_two_convolutions_folds_into_both():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3), lived_in(nn.BatchNorm2d(3))

        def forward(self, x):
            return self.norm(self.a(x)) + self.norm(self.b(x))

    _, ledger = assert_pass(FoldBatchnorm(), Shared(), torch.randn(1, 1, 4, 4), rtol=1e-5, atol=1e-5)
    assert {ledger["norm"].effective, ledger["norm_1"].effective} == {"folded into a", "folded into b"}


def test_tied_parameters_are_not_written_to():
    """Two convolutions, one Parameter, two batch norms: each gets a weight of its own."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3)
            self.b.weight = self.a.weight
            self.p, self.q = lived_in(nn.BatchNorm2d(3)), lived_in(nn.BatchNorm2d(3), 1)

        def forward(self, x):
            return self.p(self.a(x)) + self.q(self.b(x))

    program, _ = assert_pass(FoldBatchnorm(), Tied(), torch.randn(1, 1, 4, 4), rtol=1e-5, atol=1e-5)
    assert program.graph_module.a.weight is not program.graph_module.b.weight


def test_weight_that_does_not_train_stays_so():
    layer = nn.Conv2d(1, 2, 3).requires_grad_(False)
    assert not fold(layer, nn.BatchNorm2d(2)).weight.requires_grad


def parametrized():
    """A subclass of Conv2d whose weight is computed at each call."""
    model = Chain(nn.Conv2d(1, 2, 3), lived_in(nn.BatchNorm2d(2)))
    nn.utils.parametrizations.weight_norm(model.layer)
    return model


class Cases:
    """Models whose batch norm must stay, each with words of the reason."""

    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 3, 3), lived_in(nn.BatchNorm2d(3))

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    class Before(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 3, 3), lived_in(nn.BatchNorm2d(1))

        def forward(self, x):
            return self.conv(self.norm(x))

    class CalledTwice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 3), lived_in(nn.BatchNorm2d(1))

        def forward(self, x):
            return self.conv(self.norm(self.conv(x)))

    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 3), lived_in(nn.BatchNorm2d(1))

        def forward(self, x):
            return self.norm(self.conv(x)) + self.conv.weight.sum()

    class Updated(Chain):
        """Its statistics move with each call."""

        def forward(self, x):
            y = super().forward(x)
            self.norm.running_mean.add_(y.mean())
            return y


def hooked():
    model = Chain(nn.Conv2d(1, 2, 3), lived_in(nn.BatchNorm2d(2)))
    model.norm.register_forward_hook(lambda module, args, output: output * 2)
    return model


DECLINED = {
    "forked": (Cases.Forked, "used in 1 other place"),
    "before": (Cases.Before, "directly before"),
    "called twice": (Cases.CalledTwice, "2 sites"),
    "weight read": (Cases.Read, "read directly"),
    "subclass": (parametrized, "ParametrizedConv2d"),
    "no statistics": (lambda: Chain(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)), "statistics"),
    "after relu": (lambda: Chain(nn.ReLU(), lived_in(nn.BatchNorm2d(1))), "ReLU"),
    "hooks": (hooked, "hooks"),
}


@pytest.mark.parametrize("case", DECLINED)
def test_declines_with_its_code(case):
    build, words = DECLINED[case]
    _, ledger = assert_pass(FoldBatchnorm(), build(), torch.randn(2, 1, 8, 8), changes=False)
    row = ledger["norm"]
    assert (row.code, row.effective) == ("FXQ205", "float32")
    assert words in row.reason


def test_statistics_that_the_graph_writes_to_are_declined():
    model = Cases.Updated(nn.Conv2d(1, 2, 3), lived_in(nn.BatchNorm2d(2))).eval()
    _, ledger = run_passes(FoldBatchnorm(), model, torch.randn(2, 1, 8, 8))
    assert ledger["norm"].code == "FXQ205" and "directly" in ledger["norm"].reason


def test_training_mode_is_declined():
    model = Chain(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    program, _ = run_passes((), model, torch.randn(1, 1, 4, 4))
    program.graph_module.norm.train()
    program, _ = Pipeline((FoldBatchnorm(),)).run(program, ledger := Ledger())
    assert ledger["norm"].code == "FXQ205" and "training" in ledger["norm"].reason


@pytest.mark.parametrize(
    ("layer", "norm", "words"),
    [
        (nn.Conv1d(1, 4, 3), nn.BatchNorm2d(4), "BatchNorm2d does not normalize"),
        (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(3), "3 channels"),
        (nn.Linear(4, 4), nn.BatchNorm1d(5), "5 channels"),
    ],
)
def test_what_could_not_run_is_declined_not_broken(layer, norm, words):
    _, ledger = run_passes(FoldBatchnorm(), Chain(layer, norm).eval())
    assert ledger["norm"].code == "FXQ205" and words in ledger["norm"].reason


def test_an_unbatched_sequence_is_declined():
    """(channels, length): BatchNorm1d takes the length for channels."""
    model = Chain(nn.Conv1d(2, 4, 3), lived_in(nn.BatchNorm1d(4)))
    _, ledger = assert_pass(FoldBatchnorm(), model, torch.randn(2, 6), changes=False)
    assert "no batch dimension" in ledger["norm"].reason


def test_dtypes_that_differ_are_declined():
    model = Chain(nn.Conv2d(1, 2, 3).double(), nn.BatchNorm2d(2)).eval()
    _, ledger = run_passes(FoldBatchnorm(), model)
    assert "float64" in ledger["norm"].reason


def test_random_numbers_are_not_drawn():
    state = torch.get_rng_state()
    fold(*(layer_and_norm := (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))))
    torch.set_rng_state(state)
    fold(*layer_and_norm)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_norm_after_one_that_cannot_fold_is_declined_with_that_one_named():
    """conv → bn (no statistics) → bn: the second has no layer directly before it."""

    class Run(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.first = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)
            self.norm = lived_in(nn.BatchNorm2d(2))

        def forward(self, x):
            return self.norm(self.first(self.layer(x)))

    _, ledger = assert_pass(FoldBatchnorm(), Run(), torch.randn(2, 1, 8, 8), changes=False)
    assert "statistics" in ledger["first"].reason
    assert "stands directly before it, but 'first' (BatchNorm2d)" in ledger["norm"].reason


class OddNorm(nn.BatchNorm2d):
    """A batch norm of the user's own, that still is a leaf."""


def test_a_norm_of_the_users_own_kind_is_declined():
    """It is a leaf only where the user names it so; what its forward() does is its own affair."""
    model, ledger = Chain(nn.Conv2d(1, 2, 3), lived_in(OddNorm(2))).eval(), Ledger()
    program = capture(CaptureRequest(model, (torch.randn(2, 1, 8, 8),), leaf_modules=("norm",)), ledger)
    Pipeline((FoldBatchnorm(),)).run(program, ledger)
    assert ledger["norm"].code == "FXQ205" and "OddNorm is a batch norm of its own kind" in ledger["norm"].reason
