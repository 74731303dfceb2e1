"""The analysis as people read it, as JSON, and in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from fxquant.graphs.analysis import analyse
from fxquant.graphs.regions import Region
from fxquant.graphs.remedies import reasons_of
from fxquant.graphs.snapshot import GraphSnapshot
from support.compiled_zoo import of_zoo
from support.planted import Planted, chain
from support.timing import least_seconds


def test_the_analysis_reads_well() -> None:
    model = of_zoo("shared_linear")
    told = analyse(model.snapshot(), reasons_of(model.ledger), like=model.snapshot("converted"))
    assert str(told) == (
        "SharedLinear, LOWERED: 4 quantized, 2 float\n"
        "1 float island inside quantized regions: 1 quantize/dequantize pair, 1,280 bytes moved\n"
        "  mul_1: 1 dequantize, 1 quantize, 1,280 bytes moved\n"
        "    mul_1: FXQ207 x86 has no int8 kernel for mul here; to remove it: use an op that has an int8 kernel, "
        "or move it to the model's start or end\n"
        "precision changes 4 times\n"
        "critical path: 14 nodes, 100% of 2,048 MACs\n"
        "every way through the graph passes mul, linear_default, add_default"
    )


def test_an_analysis_without_anything_to_act_on_says_so() -> None:
    assert str(analyse(chain("q"))) == (
        "Planted: 1 quantized\n"
        "no float island inside quantized regions\n"
        "precision changes twice\n"
        "every way through the graph passes q2"
    )
    assert str(analyse(GraphSnapshot(()))) == (
        "graph: nothing is computed\nno float island inside quantized regions\nprecision changes nowhere"
    )


def test_what_is_unknown_is_said() -> None:
    told = analyse(of_zoo("resnet18").snapshot())
    assert told.unknown == 20
    assert told.critical.share == 1.0  # of what is known: the last linear layer
    assert "(of 20 nodes unknown)" in str(told)


def test_measured_seconds_make_the_path_one_of_time() -> None:
    told = analyse(chain("fq"), seconds={"f1": 0.25, "q3": 0.75})
    assert (told.critical.weight, told.critical.share) == (1.0, 1.0)
    assert "100% of the time" in str(told)


def test_a_value_that_several_ops_read_changes_precision_once() -> None:
    graph = Planted()
    value = graph.dequantize(graph.quantized(graph.quantize(graph.input())))
    told = analyse(graph.output(graph.float(value), graph.float(value)))
    assert (len(told.changes), told.crossings) == (3, 2)


def test_the_dict_is_json_and_holds_the_numbers() -> None:
    model = of_zoo("encoder")
    told = analyse(model.snapshot(), reasons_of(model.ledger))
    read = json.loads(json.dumps(told.as_dict()))
    assert read["counts"]["quantized"] == dict(told.counts)[Region.QUANTIZED]
    assert [island["pairs"] for island in read["islands"]] == [1, 1, 1, 1]
    assert read["islands"][0]["reasons"][0]["code"] == "FXQ208"
    assert read["crossings"] == told.crossings == 9


def test_ten_thousand_nodes_take_less_than_a_second() -> None:
    graph = chain("qqqqfqqqff" * 720)
    assert len(graph) > 10_000
    assert len(analyse(graph).islands) == 1439
    assert (
        least_seconds(lambda: analyse(GraphSnapshot(graph.nodes)), enough=1.0) < 1.0
    )  # a fresh one: nothing is cached


def test_a_deep_chain_of_conversions_that_many_read_takes_no_longer() -> None:
    graph = Planted()
    last = graph.quantized(graph.quantize(graph.input()))
    for _ in range(2_500):
        last = graph.quantize(graph.dequantize(last))
    coded = graph.dequantize(last)
    snapshot = graph.output(*(graph.float(coded) for _ in range(2_500)))
    assert len(analyse(snapshot).changes) == 2_501
    assert least_seconds(lambda: analyse(snapshot), enough=1.0) < 1.0


def test_the_same_bytes_in_processes_with_other_hash_seeds() -> None:
    script = (
        "import sys; from fxquant.graphs.analysis import analyse; from fxquant.graphs.snapshot import GraphSnapshot;"
        "import json; told = analyse(GraphSnapshot.from_json(sys.stdin.read()));"
        "print(told, json.dumps(told.as_dict()), 'torch' in sys.modules)"
    )
    text = of_zoo("unet").snapshot().to_json()
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
        ).stdout
        for seed in ("1", "2")
    }
    (told,) = printed
    assert "inside quantized regions" in told
    assert told.endswith("False\n")  # torch was not imported
