"""The law of channel pruning: a pruned model is the original whose layers see zeros where channels are gone."""

from __future__ import annotations

import copy
from math import prod

import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from torch import nn

from fxquant.graphs.channels import Alive
from fxquant.graphs.costs import total
from fxquant.graphs.snapping import snapshot_of
from fxquant.passes.prune_channels import PruneChannels
from fxquant.pipeline import Pipeline
from fxquant.program import Program
from fxquant.registry import make
from support.asserts import assert_no_orphans
from support.drawn_models import drawn
from support.masked import Masked, means
from support.models import MODELS
from support.scale import examples
from support.small import Applied
from support.tracing import trace

CHANNELLED = (
    "linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "batchnorm", "layer_norm", "add", "mul", "sub",
    "cat", "matmul", "relu", "sigmoid", "gelu", "softmax", "add_constant", "mul_constant", "flatten", "transpose",
    "view", "reshape", "half", "chunk", "contiguous", "mean", "mean2d", "max_pool", "avg_pool", "adaptive_pool", "again",
    "identity", "dropout", "negate", "embedding",
)  # fmt: skip


class Between(nn.Module):
    """A drawn model between layers, so that its inputs and its outputs are channels like any others."""

    def __init__(self, spec) -> None:
        super().__init__()
        self.body = spec.build()
        widths = [prod(spec.values[index].shape) for index in spec.gives]
        self.stems = nn.ModuleList(_stem(one.shape) if not one.vocabulary else nn.Identity() for one in spec.takes)
        self.heads = nn.ModuleList(nn.utils.skip_init(nn.Linear, width, 2) for width in widths)
        source = torch.Generator().manual_seed(spec.seed)
        with torch.no_grad():
            for parameter in (*self.stems.parameters(), *self.heads.parameters()):
                parameter.normal_(generator=source)

    def forward(self, x):
        return self.run(x)

    def run(self, *inputs):
        given = self.body(*(stem(x) for stem, x in zip(self.stems, inputs, strict=True)))
        given = given if isinstance(given, tuple) else (given,)
        return tuple(head(value.flatten(1)) for head, value in zip(self.heads, given, strict=True))


class BetweenPair(Between):
    """The same for two inputs."""

    def forward(self, x, y):
        return self.run(x, y)


def _stem(shape: tuple[int, ...]) -> nn.Module:
    """A layer that makes the channels of an input of this shape."""
    if len(shape) == 1:
        return nn.utils.skip_init(nn.Linear, shape[0], shape[0])
    kind = nn.Conv1d if len(shape) == 2 else nn.Conv2d
    return nn.utils.skip_init(kind, shape[0], shape[0], 1)


def between(spec) -> nn.Module:
    """The model of a spec, with layers before and behind it."""
    return (Between if len(spec.takes) == 1 else BetweenPair)(spec).eval()


def traced(model: nn.Module, args, kwargs) -> Program:
    program, ledger = trace(model, *args, **kwargs)
    program, _ = Pipeline((make("functionalize"), make("normalize-calls"))).run(program, ledger)
    return program


def assert_law(model: nn.Module, step: PruneChannels, args, kwargs=None) -> Alive:
    """Pruned equals masked, in float64; the MACs are those that were planned; nothing is left over."""
    kwargs = kwargs or {}
    program = traced(model, args, kwargs)
    report, alive = step.plan(program)
    program.graph_module.double()
    leaves = tuple(
        leaf.double() if leaf.is_floating_point() else leaf for leaf in program.signature.leaves(args, kwargs)
    )
    with torch.no_grad():
        kept = means(program, report.flow, leaves) if step.keep_mean else None
        masked = Masked(program, report.flow, alive, kept).run(*leaves)
    small, records = Pipeline((step,)).run(traced(model, args, kwargs), trace(model, *args, **kwargs)[1])
    assert records[-1].is_changed == (not alive.all())
    assert total(snapshot_of(small.graph_module)).macs == pytest.approx(report.work.left(alive), abs=1e-6)
    assert_no_orphans(small)
    small.graph_module.double()
    with torch.no_grad():
        found = small.graph_module(*leaves)
    close = 1e-6 if step.keep_mean else 1e-9  # its biases were rounded to float32
    for one, other in zip(found, masked, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=close, atol=close * max(1.0, float(other.abs().max())))
    return alive


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"macs": 0.6}, {"ratio": 0.3, "importance": "batchnorm"}])
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "mobilenet_v2",
        "mobilenet_v3",
        "unet",
        "dense_block",
        "vit",
        "encoder",
        "mlp",
        "two_inputs",
    ],
)
def test_a_pruned_net_of_the_zoo_is_the_masked_one(name, options):
    case = MODELS[name]
    alive = assert_law(case.make(), PruneChannels(round_to=1, **options), case.inputs(3), case.arguments(3))
    assert alive.mean() < 0.95


def conv(inputs: int, outputs: int, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def _excited(x, wide, down, up, head):
    x = wide(x)
    n, c, _, _ = x.size()
    return head(x * torch.sigmoid(up(torch.relu(down(x.mean((2, 3)).view(n, c)))).view(n, c, 1, 1)))


def _attended(x, wide, key, value, head):
    x = wide(x).flatten(2).transpose(1, 2)  # (N, pixels, channels)
    return head((x @ key(x).transpose(1, 2) * 0.1).softmax(-1) @ value(x))


def _in_heads(x, wide, qkv, head):
    x = wide(x).flatten(2).transpose(1, 2)
    q, k, v = qkv(x).reshape(x.shape[0], 64, 3, 4, 2).permute(2, 0, 3, 1, 4).unbind(0)
    return head(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 64, 8))


SMALL = {
    "in heads": (_in_heads, conv(3, 8), nn.Linear(8, 24), nn.Linear(8, 2)),
    "shuffled": (lambda x, a, n, b: b(n(a(x))), conv(3, 16), nn.PixelShuffle(2), conv(4, 2)),
    "stacked": (
        lambda x, a, n, b: b(torch.stack([a(x), n(x)], 1).mean(1)), conv(3, 8), conv(3, 8), conv(8, 2)
    ),
    "norm": (lambda x, a, n, b: b(n(a(x))), conv(3, 8), nn.GroupNorm(4, 8), conv(8, 2)),
    "instance": (lambda x, a, n, b: b(n(a(x))), conv(3, 8), nn.InstanceNorm2d(8, affine=True), conv(8, 2)),
    "prelu": (lambda x, a, n, b: b(n(a(x))), conv(3, 8), nn.PReLU(8), conv(8, 2)),
    "grouped": (lambda x, a, n, b: b(n(a(x))), conv(3, 8), conv(8, 12, groups=4), conv(12, 2)),
    "multiplied": (lambda x, a, n, b: b(n(a(x))), conv(3, 8), conv(8, 16, groups=8), conv(16, 2)),
    "transposed": (
        lambda x, a, n, b: b(n(a(x))), conv(3, 8), nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4), conv(12, 2)
    ),
    "twice": (lambda x, a, n, b: b(n(n(a(x)).relu()) + a(x)), conv(3, 8), conv(8, 8), conv(8, 2)),
    "excited": (_excited, conv(3, 8), nn.Linear(8, 4), nn.Linear(4, 8), conv(8, 2)),
    "attended": (_attended, conv(3, 8), nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 2)),
    "halves": (
        lambda x, a, n, b: b(torch.cat([n(a(x).chunk(2, 1)[0]), a(x)[:, 3:]], 1)), conv(3, 8), conv(4, 4), conv(9, 2)
    ),
    "normalized": (lambda x, a, n, b: b(n(a(x)).flatten(1)), conv(3, 4), nn.LayerNorm((4, 8, 8)), nn.Linear(256, 2)),
    "shifted": (lambda x, a, n, b: b(n(a(x).permute(0, 2, 3, 1))), conv(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
}  # fmt: skip


@pytest.mark.parametrize("ratio", [0.3, 0.6])
@pytest.mark.parametrize("name", SMALL)
def test_a_pruned_small_net_is_the_masked_one(name, ratio):
    function, *parts = copy.deepcopy(SMALL[name])
    source = torch.Generator().manual_seed(len(name))
    for parameter in (one for part in parts for one in part.parameters()):
        nn.init.normal_(parameter, generator=source)
    x = torch.rand(2, 3, 8, 8, generator=source)
    alive = assert_law(Applied(function, *parts), PruneChannels(ratio=ratio, round_to=1), (x,))
    assert not alive.all()


def _normed(x, a, n, b, c, m, head):
    return head(m(c(torch.relu(b(torch.sigmoid(n(a(x))))))))


READERS = {
    "linear": (lambda x, a, n, b: b(torch.relu(n(torch.relu(a(x.flatten(1)))))), nn.Linear(192, 8), nn.Linear(8, 8), nn.Linear(8, 2)),
    "norm takes it": (
        _normed, conv(3, 8), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, bias=False), nn.Conv2d(6, 6, 1, bias=False),
        nn.BatchNorm2d(6), nn.Conv2d(6, 2, 2, stride=2),
    ),
    "a new bias": (
        lambda x, a, n, b: b(torch.relu(n(a(x)) * 2)), conv(3, 8), nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 2, 1, bias=False)
    ),
    "transposed": (lambda x, a, n, b: b(n(a(x))), conv(3, 8), nn.ConvTranspose2d(8, 8, 1), nn.Conv2d(8, 2, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_with_keep_mean_readers_see_the_mean_where_channels_are_gone(name):
    """Exact where no padding mixes zeros in."""
    function, *parts = copy.deepcopy(READERS[name])
    source = torch.Generator().manual_seed(len(name))
    for parameter in (one for part in parts for one in part.parameters()):
        nn.init.normal_(parameter, generator=source)
    x = torch.rand(5, 3, 8, 8, generator=source)
    assert not assert_law(Applied(function, *parts), PruneChannels(ratio=0.5, round_to=1, keep_mean=True), (x,)).all()


@examples(1.5)
@given(spec=drawn(kinds=CHANNELLED), ratio=st.sampled_from((0.3, 0.5, 0.9)), seed=st.integers(0, 3))
def test_a_pruned_drawn_model_is_the_masked_one(spec, ratio, seed):
    alive = assert_law(between(spec), PruneChannels(ratio=ratio, round_to=1), spec.inputs(seed))
    note(f"{int((~alive).sum())} of {alive.size - 1} channels pruned")


@examples(0.7)
@given(spec=drawn(), ratio=st.sampled_from((0.3, 0.5, 0.9)))
def test_any_drawn_model_keeps_its_output_shapes(spec, ratio):
    program, ledger = trace(between(spec), *spec.inputs())
    program, _ = Pipeline((PruneChannels(ratio=ratio, round_to=1),)).run(program, ledger)
    leaves = program.signature.leaves(spec.inputs(1, 3), {})
    with torch.no_grad():
        assert [tuple(value.shape) for value in program.graph_module(*leaves)] == [(3, 2)] * len(spec.gives)
