"""The bench against peers: sides in processes of their own, their turns, and what is told of what they measured."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fxquant.numerics import sqnr_db
from fxquant.tools.bench.__main__ import BENCHES
from fxquant.tools.bench.__main__ import main as benches
from fxquant.tools.bench.peers.__main__ import main
from fxquant.tools.bench.peers.held import checks
from fxquant.tools.bench.peers.job import Job
from fxquant.tools.bench.peers.measured import ModelResult, Result, SideResult
from fxquant.tools.bench.peers.profiling import Op, by_kernel, pairs
from fxquant.tools.bench.peers.sides import SIDES, Side
from fxquant.tools.bench.peers.told import as_markdown
from fxquant.tools.bench.peers.turns import SideFailed, Worker, in_turns
from support.models import BENCHED, FAMILIES, TROUBLE

TESTS = str(Path(__file__).parents[1])


def side(name, milliseconds, sqnr, **more):
    seconds = {1: tuple(each / 1e3 for each in milliseconds)}
    return SideResult(name, seconds=seconds, sqnr_db={1: sqnr}, build_seconds=2.0, **more)


def result(*sides, model="resnet18"):
    about = {"batches": [1], "threads": 2, "rounds": 3}
    return Result(about, (ModelResult(model, sides),))


# What is told --------------------------------------------------------------------------------------------------------


def test_auto_is_held_to_peers_of_its_accuracy_and_told_beside_the_fastest_of_all():
    found = checks(
        result(
            side("nncf", (1.0, 1.0, 1.0), 30.4),
            side("float-openvino", (0.5, 0.5, 0.5), 45.0),
            side("fxquant-auto", (0.9, 0.9, 1.2), 30.0, note="openvino"),
        )
    )
    by_name = {check.what: check for check in found}
    assert by_name["resnet18: auto / best peer"].measured == pytest.approx(0.9)
    assert by_name["resnet18: auto / best peer"].is_met
    assert "fxquant-auto (openvino) 0.90 ms, 30.0 dB" in by_name["resnet18: auto / best peer"].detail
    assert by_name["resnet18: auto / fastest peer of any accuracy"].measured == pytest.approx(1.8)
    assert not by_name["resnet18: auto / fastest peer of any accuracy"].is_met
    assert by_name["models where auto is at most 0.95"].measured == 1


def test_a_peer_with_half_a_decibel_more_is_still_of_equal_accuracy_and_one_with_more_is_not():
    for more, held in ((0.5, True), (0.51, False)):
        found = checks(result(side("nncf", (1.0,), 30.0 + more), side("fxquant-auto", (2.0,), 30.0)))
        assert any(check.what.endswith("auto / best peer") for check in found) is held


def test_native_engines_are_held_to_the_better_of_stock_fx():
    sides = (side("fx-x86", (4.0,), 30.0), side("fx-onednn", (2.0,), 33.0), side("fxquant-onednn", (1.8,), 33.0))
    (found,) = checks(result(*sides))
    assert (found.what, found.target, found.measured) == ("resnet18: native / stock FX", 0.95, pytest.approx(0.9))
    assert checks(result(*sides, model="unet")) == []


def test_a_side_that_failed_is_in_no_check_and_in_the_table_as_nothing():
    failed = SideResult("fxquant-auto", failure="UnknownTargetError: FXQ109")
    run = result(side("nncf", (1.0,), 30.0), failed)
    assert checks(run) == []
    assert as_markdown(run).splitlines()[2] == "| resnet18 | – | – | – | 1.00 ms, 30 dB | – | – | – |"


def test_the_readmes_table_shows_the_fastest_of_each_kind_and_auto_over_it():
    sides = (
        side("float-eager", (9.0,), math.inf),
        side("float-openvino", (2.0,), 45.0),
        side("onnxruntime-static", (1.5,), 31.0),
        side("fxquant-auto", (1.2,), 31.0, note="openvino"),
    )
    row = as_markdown(result(*sides)).splitlines()[2]
    assert row == (
        "| resnet18 | 2.00 ms, 45 dB | – | 1.50 ms, 31 dB | – | 1.20 ms, 31 dB, openvino "
        "| 0.80 (0.80–0.80) | 0.80 (0.80–0.80) |"
    )


def test_a_result_survives_json_infinite_sqnr_and_all():
    run = result(side("float-eager", (1.0, 2.0), math.inf), SideResult("pt2e", failure="did not annotate"))
    text = json.dumps(run.as_dict(), allow_nan=False)
    assert Result.of_dict(json.loads(text)) == run


def test_layers_of_both_graphs_are_paired_in_their_order_or_not_at_all():
    conv, add = Op("[conv2d_3]", "Convolution", "brgconv", 10.0), Op("add", "Eltwise", "jit", 1.0)
    their = Op("aten::_convolution", "GroupConvolution", "brgconv", 8.0)
    assert pairs([add, conv], [their]) == [(conv, their)]
    assert pairs([conv], [their, their]) == []
    assert by_kernel([conv, conv, add]) == {"Convolution brgconv": (2, 20.0), "Eltwise jit": (1, 1.0)}


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--models", "resnet81"], "no model called resnet81"),
        (["--sides", "tensorrt"], "no side called tensorrt"),
        (["--batches", "0"], "numbers from 1 to 32"),
        (["--batches", "1,many"], "numbers from 1 to 32"),
        (["--profile", "resnet18", "--peer", "fx-x86"], "no side on OpenVINO called fx-x86"),
        (["--tests", "/nowhere"], "--tests"),
    ],
)
def test_a_wrong_option_is_named(arguments, told):
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code != 0 and told in found.output


def test_slow_sides_are_asked_for_and_the_list_says_so():
    assert {side.name for side in SIDES.values() if side.is_slow} == {"pt2e", "fxquant-inductor"}
    told = CliRunner().invoke(main, ["--list"]).output.splitlines()
    assert [line.split()[0] for line in told] == list(SIDES)
    assert [line.split()[0] for line in told if line.endswith(", if asked for")] == ["pt2e", "fxquant-inductor"]


def test_every_bench_runs_by_its_name():
    for name in BENCHES:
        found = CliRunner().invoke(benches, [name, "--help"])
        assert found.exit_code == 0 and "Usage" in found.output, name
    assert CliRunner().invoke(benches, ["nothing"]).exit_code == 2


def test_the_nine_shapes_are_of_the_three_kinds():
    kinds = {name: Job(name, case.make(), [], (), torch.empty(0), 1).kind for name, case in BENCHED.items()}
    assert len(kinds) == 9
    assert {name for name, kind in kinds.items() if kind == "transformer"} == {"vit", "encoder"}
    assert {name for name, kind in kinds.items() if kind == "recurrent"} == {"lstm"}


# Turns ---------------------------------------------------------------------------------------------------------------


class Fake:
    """Tells its side at each turn."""

    def __init__(self, name, seen):
        self.side, self.seen = name, seen

    def ask(self, what, *, rows, calls):
        self.seen.append((self.side, calls))
        return {"seconds": 0.01}


def test_sides_take_turns_of_a_tenth_of_a_second_and_the_order_is_reversed_every_round():
    seen: list[tuple[str, int]] = []
    found = in_turns([Fake("a", seen), Fake("b", seen)], 1, rounds=3)
    assert seen == [("a", 3), ("b", 3), ("a", 10), ("b", 10), ("b", 10), ("a", 10), ("a", 10), ("b", 10)]
    assert found == {"a": (0.01,) * 3, "b": (0.01,) * 3}


def worker(job, name, seconds=60.0):
    return Worker(job, name, tests=TESTS, threads=1, most_seconds=seconds)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "job.pt"
    Job.of("branches_on_data", TROUBLE["branches_on_data"], full=False, threads=1).save(path)
    return path


@pytest.mark.parametrize("name", BENCHED)
def test_a_job_is_the_same_to_the_bit_in_the_sides_processes(name, tmp_path):
    job = Job.of(name, BENCHED[name], full=False, threads=1)
    job.save(tmp_path / "job.pt")
    again = Job.load(tmp_path / "job.pt", BENCHED)
    assert (again.name, again.threads, again.is_full, again.model.training) == (name, 1, False, False)
    ours, theirs = ((each.held_out, *each.batches) for each in (job, again))
    assert all(
        torch.equal(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert torch.equal(again.reference, job.reference)
    with torch.inference_mode():
        assert torch.equal(again.model(*job.rows(8)), job.model(*job.rows(8)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; other systems have the signals too")
def test_a_side_fails_with_its_reason_works_on_and_is_stopped_between_its_turns(job):
    one = worker(job, "fx-onednn")
    try:
        with pytest.raises(SideFailed, match=r"^TraceError: "):
            one.ask("build", rows=1)
        with pytest.raises(SideFailed, match=r"^KeyError: "):
            one.ask("time", rows=1, calls=1)
        status = Path(f"/proc/{one._process.pid}/status")
        assert "State:\tT" in status.read_text()
    finally:
        one.end()
    assert not status.exists()


def test_a_process_that_ends_says_its_last_words(job):
    one = worker(job, "no such side")
    try:
        with pytest.raises(SideFailed, match=r"ended with 1: KeyError: 'no such side'"):
            one.ask("build", rows=1)
    finally:
        one.end()


def test_a_side_that_takes_too_long_is_given_up(job):
    one = worker(job, "fx-onednn", seconds=0.01)
    try:
        with pytest.raises(SideFailed, match="took more than"):
            one.ask("build", rows=1)
    finally:
        one.end()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked to end it, which only Linux can")
def test_no_stopped_process_outlives_its_parent(job):
    code = (
        "import os, sys; from pathlib import Path; from fxquant.tools.bench.peers.turns import *\n"
        f"w = Worker(Path({str(job)!r}), 'float-eager', tests={TESTS!r}, threads=1, most_seconds=60)\n"
        "w.ask('build', rows=1); print(w._process.pid, flush=True); os._exit(0)"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    pid, waited_until = int(found.stdout), time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < waited_until:
        time.sleep(0.05)
    assert not is_alive(pid)


def is_alive(pid):
    """Dead, or dead and not yet waited for by whoever adopted it."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


# A run ---------------------------------------------------------------------------------------------------------------


def test_a_small_run_writes_its_numbers_and_its_chart_and_tells_failures_as_rows(tmp_path):
    numbers, chart = tmp_path / "peers.json", tmp_path / "peers.svg"
    arguments = ["--quick", "--models", "lstm", "--sides", "float-eager,fxquant-onednn", "--batches", "1,2"]
    arguments += ["--rounds", "1", "--threads", "1", "--json", str(numbers), "--chart", str(chart)]
    found = CliRunner().invoke(benches, ["peers", *arguments, "--tests", TESTS], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    run = Result.of_dict(json.loads(numbers.read_text()))
    eager, ours = run.models[0].sides
    assert eager.sqnr() > 100 and ours.sqnr() > 15 and not ours.failure
    assert all(len(ours.seconds[rows]) == 1 and ours.seconds[rows][0] > 0 for rows in (1, 2))
    assert chart.read_text().startswith("<?xml") and "lstm" in chart.read_text()
    again = CliRunner().invoke(main, ["--from", str(numbers), "--readme"])
    assert again.output.startswith("| model | float, best engine |")
    both = CliRunner().invoke(main, ["--from", str(numbers), "--from", str(numbers), "--readme"])
    assert both.output.count("| lstm |") == 2 * again.output.count("| lstm |") == 2
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**json.loads(numbers.read_text()), "about": {**run.about, "threads": 7}}))
    refused = CliRunner().invoke(main, ["--from", str(numbers), "--from", str(other)])
    assert refused.exit_code == 2 and "the runs differ in threads" in refused.output


@pytest.mark.parametrize(
    "name",
    ["float-onnxruntime", "onnxruntime-static", "onnxruntime-dynamic", "float-openvino", "fx-onednn", "eager-dynamic"],
)
def test_a_peer_computes_the_models_output_for_each_batch_size(name, engine_kept):
    job = Job.of("mlp", FAMILIES["mlp"], full=False, threads=1)
    peer: Side = SIDES[name]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # those of other people's exporters
        builder = peer.build(peer.start(), job)
        for rows in (1, 4):
            bound = builder(rows)(job.rows(rows, 4))
            found = bound.read(bound.call())
            assert sqnr_db(job.reference[4 : 4 + rows], found) > 20
            assert bound.read(bound.call()).equal(found)


@pytest.fixture
def engine_kept():
    """A side sets the engine of its own process; here it is ours."""
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before
