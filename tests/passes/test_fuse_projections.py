"""Linear layers on the same codes become one: the same numbers, a row for each; and those that keep their own kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import qdq
from fxquant.ledger import Ledger
from fxquant.model import CompiledModel
from fxquant.passes import fuse_projections
from fxquant.passes.fuse_projections import FuseProjections
from fxquant.pipeline import Pipeline
from fxquant.sites import computed_sites
from support.asserts import assert_same


class Attention(nn.Module):
    """One head; query from x, key and value from x or from a second input."""

    def __init__(self, is_cross: bool = False, has_bias: bool = True) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, size, bias=has_bias) for size in (6, 6, 4))
        self.is_cross = is_cross

    def forward(self, x: Tensor) -> Tensor:
        other = torch.tanh(x) if self.is_cross else x
        q, k, v = self.query(x), self.key(other), self.value(other)
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def compiled(
    model: nn.Module, *, is_fused: bool, x: Tensor = X, preset: str = "int8-dynamic", target: str = "onednn"
) -> CompiledModel:
    pipeline = fxquant.default_pipeline(target=target)
    if not is_fused:
        pipeline = pipeline.without("fuse-projections")
    data = [x] if preset == "int8" else None
    return fxquant.compile(
        model.eval(), preset, calibration_data=data, example_inputs=(x,), target=target, passes=pipeline
    )


def linears(model: CompiledModel) -> list[fx.Node]:
    return model.canonical.graph.find_nodes(op="call_function", target=F.linear)


@pytest.mark.parametrize(
    "apart, preset, layers", [(("openvino",), "int8", 3), ((), "int8", 1), (("openvino",), "int8-dynamic", 1)]
)
def test_openvino_keeps_layers_on_static_codes_apart(
    monkeypatch: pytest.MonkeyPatch, apart: tuple[str, ...], preset: str, layers: int
) -> None:
    monkeypatch.setattr(fuse_projections, "_APART_ON_STATIC_CODES", apart)
    model = compiled(Attention(), is_fused=True, preset=preset, target="openvino")
    assert model.target == "openvino" and len(linears(model)) == layers


@pytest.mark.parametrize("has_bias", [True, False])
def test_three_projections_run_in_one_kernel_with_the_same_numbers(has_bias: bool) -> None:
    model = Attention(has_bias=has_bias)
    plain, fused = (compiled(model, is_fused=is_fused) for is_fused in (False, True))
    assert (len(linears(plain)), len(linears(fused))) == (3, 1)
    assert fused(X).equal(plain(X))
    torch.testing.assert_close(fused.canonical(X)[0], plain.canonical(X)[0], rtol=0, atol=1e-6)
    assert sum("linear_dynamic" in str(node.target) for node in fused.graph_module.graph.nodes) == 1
    assert fused.state_dict()["query_key_value.weight"].shape == (16, 8) and "query.weight" not in fused.state_dict()


def test_each_layer_has_its_row_and_its_value() -> None:
    model = compiled(Attention(), is_fused=True)
    rows = {row.module: (row.effective, row.reason) for row in model.ledger.layers if row.op == "Linear"}
    runs = "runs as quantized.linear_dynamic on onednn"
    assert rows == {
        "query": ("int8", f"runs in one kernel with 'key', 'value'; {runs}"),
        "key": ("int8", f"runs in one kernel with 'query', 'value'; {runs}"),
        "value": ("int8", f"runs in one kernel with 'query', 'key'; {runs}"),
    }
    widths = {site: node.args[3] for node, site in computed_sites(model.canonical).items() if node.target == "narrow"}
    assert widths == {"query": 6, "key": 6, "value": 4}


def test_key_and_value_of_another_input_pair_without_the_query() -> None:
    attention = Attention(is_cross=True)
    plain, fused = (compiled(attention, is_fused=is_fused) for is_fused in (False, True))
    assert (len(linears(plain)), len(linears(fused))) == (3, 2)
    assert fused(X).equal(plain(X))


def test_the_projections_of_torchs_own_attention_are_told_as_its_parts() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    own = Own()
    plain, fused = (compiled(own, is_fused=is_fused) for is_fused in (False, True))
    assert fused(X).equal(plain(X)) and len(linears(fused)) == 2
    row = next(row for row in fused.ledger.layers if row.module == "attention")
    assert row.effective == "int8 (q_proj, k_proj, v_proj, out_proj), float32 (attention)"
    assert row.reason.startswith("q_proj, k_proj, v_proj run in one kernel; ")


class Readers(nn.Module):
    """Two layers on one input, and what becomes of their results."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(8, 4), nn.Linear(8, 4, bias=kind != "one bias")
        self.b.weight = self.a.weight if kind == "tied" else self.b.weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.a(x), self.b(x)
        if self.kind == "relu":
            return F.relu(a), b
        if self.kind == "views":
            return a.view(2, -1).tanh(), b.transpose(1, 2).view(2, 2, 2, 5)
        return a, b


@pytest.mark.parametrize("kind", ["relu", "one bias", "tied"])
def test_a_layer_with_a_kernel_or_a_weight_of_another_kind_keeps_its_own(kind: str) -> None:
    plain, fused = (compiled(Readers(kind), is_fused=is_fused) for is_fused in (False, True))
    assert len(linears(plain)) == len(linears(fused)) == 2
    assert fused.canonical.graph.find_nodes(op="call_method", target="narrow") == []


def test_views_that_would_merge_the_strides_of_a_slice_copy() -> None:
    model = Readers("views")
    plain, fused = (compiled(model, is_fused=is_fused) for is_fused in (False, True))
    assert len(linears(fused)) == 1
    assert_same(fused(X), plain(X))


def test_static_layers_that_are_quantized_on_the_way_out_keep_their_kernels() -> None:
    model = compiled(Attention(), is_fused=True, preset="int8")
    assert len(linears(model)) == 3


def test_static_layers_that_are_read_in_float_are_stacked() -> None:
    pipeline = fxquant.default_pipeline(target="onednn").until(fxquant.Stage.CONVERTED)
    model = fxquant.compile(Attention().eval(), "int8", calibration_data=[X], target="onednn", passes=pipeline)
    program = model._program
    for node in linears(model):
        (quantize,) = node.users
        (value,) = quantize.users
        assert quantize.target is qdq.quantize_per_tensor
        value.replace_all_uses_with(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    expected = program.graph_module(X)
    for count in (1, 1):  # twice is like once
        program, _ = Pipeline((FuseProjections(),)).run(program, Ledger())
        assert len(program.graph.find_nodes(op="call_function", target=F.linear)) == count
    assert_same(program.graph_module(X), expected, atol=1e-6)


def test_a_stacked_model_is_saved_and_loaded(tmp_path: Path) -> None:
    model = compiled(Attention(), is_fused=True)
    loaded = fxquant.load(model.save(tmp_path / "model.fxq.safetensors"))
    assert loaded(X).equal(model(X))
    assert [row.effective for row in loaded.ledger.layers] == [row.effective for row in model.ledger.layers]
