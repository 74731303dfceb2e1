"""The rows that `fxquant inspect` prints."""

from __future__ import annotations

import json

import pytest

from fxquant.graphs.inspection import TOTAL, as_dicts, inspect_rows, total_row
from support.compiled_zoo import of_zoo
from support.models import MODELS


def test_a_row_says_what_a_layer_is_costs_and_became() -> None:
    model = of_zoo("encoder")
    rows = {row.node: row for row in inspect_rows(model.snapshot(), model.ledger, like=model.snapshot("converted"))}
    layer = rows["linear_default"]
    assert (layer.module, layer.op) == ("layers.0.attention.query", "quantized.linear")
    assert (layer.shape, layer.dtype, layer.region) == ("16×16×32", "quint8", "quantized")
    assert (layer.parameters, layer.macs) == (32 * 32 + 32, 16 * 16 * 32 * 32)
    assert (layer.decision, layer.reason) == ("int8", "runs as quantized.linear on x86")
    assert layer.where.split(":")[0].endswith("encoder.py")


def test_a_float_layer_shows_its_code() -> None:
    model = of_zoo("encoder")
    rows = {row.node: row for row in inspect_rows(model.snapshot(), model.ledger)}
    assert rows["softmax"].decision == "float32 FXQ207"
    assert rows["layers_0_activation"].region == "float"


@pytest.mark.parametrize("stage", ["traced", "prepared", "converted", "lowered"])
@pytest.mark.parametrize("name", ["resnet18", "lstm", "mobilenet_v3"])
def test_every_node_has_a_row_and_constants_only_when_asked_for(name: str, stage: str) -> None:
    graph = of_zoo(name).snapshot(stage)
    every = inspect_rows(graph, with_constants=True)
    assert [row.node for row in every] == [node.name for node in graph]
    assert [row for row in every if row.region != "constant"] == list(inspect_rows(graph))
    assert {row.decision for row in every} == {""}


def test_decisions_stand_at_layers_and_not_at_conversions() -> None:
    model = of_zoo("resnet18")
    for row in inspect_rows(model.snapshot("converted"), model.ledger):
        assert bool(row.decision) == (row.region == "quantized"), row


def test_the_total_is_the_models() -> None:
    model = of_zoo("resnet18")
    traced, lowered = model.snapshot("traced"), model.snapshot("lowered")
    whole = total_row(lowered, like=model.snapshot("converted"))
    assert (whole.node, whole.region) == (TOTAL, "32 quantized")
    assert whole.macs == total_row(traced).macs == sum(row.macs or 0 for row in inspect_rows(traced))
    assert whole.parameters is not None
    assert whole.parameters < sum(parameter.numel() for parameter in MODELS["resnet18"].make().parameters())
    assert whole.weight_bytes is not None
    assert whole.weight_bytes < 2 * whole.parameters


def test_rows_are_ready_for_json() -> None:
    model = of_zoo("mlp")
    rows = inspect_rows(model.snapshot(), model.ledger)
    read = json.loads(json.dumps(as_dicts((*rows, total_row(model.snapshot())))))
    assert [row["node"] for row in read] == [*(row.node for row in rows), "total"]
    assert read[2]["macs"] == rows[2].macs
