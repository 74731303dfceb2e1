"""Laws of pruning and low rank on drawn models: zeros are exact after quantization, whole ranks change nothing."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import fxquant
from fxquant.passes._chosen_layers import layers_of
from fxquant.passes._factorable import candidate, why_not
from fxquant.passes._factors import pair
from fxquant.passes._placing import replace_at
from fxquant.passes._survey import Survey
from fxquant.passes.low_rank import LowRank
from fxquant.passes.prune_magnitude import PruneMagnitude
from support.drawn_models import drawn, engines, policies, policy
from support.held_weights import held_weights, weights_like
from support.scale import examples
from support.tracing import call, trace


@examples(0.5)
@given(drawn(), st.floats(0.1, 0.9), policies, engines)
def test_every_pruned_weight_of_a_drawn_model_is_exactly_zero_when_it_is_quantized(spec, sparsity, asked, target):
    found = fxquant.compress(spec.build(), [PruneMagnitude(sparsity=sparsity)], example_inputs=spec.inputs())
    compiled = fxquant.compile(found, policy(asked), calibration_data=spec.batches(), target=target)
    held = held_weights(compiled.canonical)
    for name, mask in found.masks.items():
        for weight in weights_like(held, name, mask.shape):
            assert bool((weight[mask] == 0).all()), name


@examples(0.5)
@given(drawn(), st.floats(0.2, 0.95), st.sampled_from(["weight", "spatial"]), policies)
def test_a_factorized_drawn_model_keeps_its_outputs_shapes_and_compiles(spec, energy, method, asked):
    model = spec.build()
    found = fxquant.compress(model, [LowRank(energy=energy, method=method)], example_inputs=spec.inputs())
    compiled = fxquant.compile(found, policy(asked), calibration_data=spec.batches())
    inputs = spec.inputs(3)
    with torch.no_grad():
        before, after = model(*inputs), compiled(*inputs)
    assert str(torch.utils._pytree.tree_map(_shape, before)) == str(torch.utils._pytree.tree_map(_shape, after))
    for step in fxquant.steps_of(found.history):
        assert step.name != "low-rank" or step.after.macs < step.before.macs


def _shape(value):
    return tuple(value.shape) if isinstance(value, torch.Tensor) else value


@examples(0.5)
@given(drawn(), st.sampled_from(["weight", "spatial"]))
def test_at_whole_ranks_a_drawn_model_computes_the_same(spec, method):
    model = spec.build()
    program, _ = trace(model, *spec.inputs())
    survey = Survey(program)
    for layer in layers_of(program):
        if why_not(layer, program, survey, is_meant=False) is None:
            each = candidate(layer, method)
            replace_at(program.graph_module, layer.name, pair(each.module, each.macs.maximum, spatial=each.is_spatial))
    with torch.no_grad():
        expected = model(*spec.inputs(3))
    torch.testing.assert_close(call(program, *spec.inputs(3)), expected, rtol=1e-3, atol=1e-4)
