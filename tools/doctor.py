"""`fxquant doctor`: whether this machine can compile and run quantized models, and what `target="auto"` means on it."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

import click

from fxquant.errors import BackendError, UnknownTargetError
from fxquant.tools.terminal import console

if TYPE_CHECKING:
    from fxquant.targets import Isa

Verdict = Literal["ok", "note", "fail"]
TORCH_RANGE = ((2, 11), (2, 16))  # from, below: a test compares it with pyproject.toml
EXTRAS = ("scikit-learn", "matplotlib", "transformers")


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: what was looked at, what was found, and whether compiling can go on. Only 'fail' fails the doctor."""

    topic: str
    name: str
    value: str
    verdict: Verdict = "ok"
    advice: str = ""


def findings() -> tuple[Finding, ...]:
    """Everything the doctor looks at, in the order of the table."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch's is missing
        broken = Finding("torch", "torch", f"does not import: {error}", "fail", 'pip install "torch>=2.11,<2.16"')
        return (_python(), broken, _renderer(), *_extras())
    return (
        _python(),
        torch_finding(torch.__version__),
        Finding("torch", "threads", str(torch.get_num_threads())),
        *_engines(),
        *_cpu(),
        _renderer(),
        *_extras(),
    )


def _python() -> Finding:
    return Finding("python", "python", f"{platform.python_version()} on {platform.system()}")


def torch_finding(installed: str) -> Finding:
    """Whether this release of torch is one that is tested."""
    lowest, above = (".".join(map(str, bound)) for bound in TORCH_RANGE)
    numbers = tuple(int(part) for part in installed.split("+")[0].split(".")[:2] if part.isdigit())
    if TORCH_RANGE[0] <= numbers < TORCH_RANGE[1]:
        return Finding("torch", "torch", installed)
    return Finding("torch", "torch", installed, "fail", f'supported: pip install "torch>={lowest},<{above}"')


def _engines() -> Iterator[Finding]:
    from fxquant.targets import AUTO, NATIVE, available, resolve

    for target in NATIVE.values():
        if available(target.name):
            yield Finding("engine", target.name, "available", "ok", target.description)
        else:
            yield Finding("engine", target.name, "not in this torch", "note", target.description)
    try:
        chosen = resolve(AUTO)
    except BackendError as error:
        yield Finding("engine", 'target="auto"', error.message, "fail", error.hint)
    else:
        yield Finding("engine", 'target="auto"', chosen.engine, "ok", chosen.reason)
    yield from _outside_torch()


def _outside_torch() -> Iterator[Finding]:
    """Targets beside torch's own engines: here or not and why, and the extra that brings them."""
    from fxquant.targets import EXTERNAL, presence

    for target in EXTERNAL.values():
        found = presence(target.name)
        extra = f"; pip install 'fxquant[{target.extra}]'" if target.extra and not found.is_here else ""
        value = f"available ({found.why})" if found.is_here else found.why
        yield Finding("target", target.name, value, "ok" if found.is_here else "note", f"{target.description}{extra}")
    yield _racing()


def _racing() -> Finding:
    """Who takes part in the race of target="auto"."""
    from fxquant.racing import SECONDS, VARIABLE, race_for
    from fxquant.targets import presence

    try:
        race = race_for(None, SECONDS)
    except UnknownTargetError as error:
        return Finding("target", 'race of "auto"', error.message, "fail", error.hint)
    names = [] if race is None else [name for name in race.names if presence(name).is_here]
    value = f"torch's own and {', '.join(names)}" if names else "none: torch's own engine runs it"
    return Finding(
        "target", 'race of "auto"', value, "ok", f"the fastest on the example inputs; {VARIABLE} restricts it"
    )


def _cpu() -> Iterator[Finding]:
    from fxquant.targets import NATIVE, has_saturation_risk, isa

    cpu = isa()
    yield Finding("cpu", "machine", cpu.machine)
    for name in ("avx2", "avx512", "vnni", "amx", "bf16"):
        yield Finding("cpu", name, _yes_no(getattr(cpu, name)))
    at_risk = [name for name in NATIVE if has_saturation_risk(name, cpu)]
    yield _saturation(at_risk, cpu)


def _saturation(at_risk: list[str], cpu: Isa) -> Finding:
    if not at_risk:
        return Finding("cpu", "saturation risk", "none")
    why = (
        f"full 8-bit activations can saturate ({'VNNI unknown' if cpu.vnni is None else 'no VNNI'}); 7-bit ones cannot"
    )
    return Finding("cpu", "saturation risk", ", ".join(at_risk), "note", why)


def _yes_no(fact: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[fact]


def _renderer() -> Finding:
    if drawn := _draws_with_pygraphviz():
        return Finding("drawing", "renderer", drawn)
    if found := shutil.which("dot"):
        return Finding("drawing", "renderer", f"dot ({found})")
    return Finding("drawing", "renderer", "none", "note", "graphs are written as DOT text; pip install pygraphviz")


def _draws_with_pygraphviz() -> str:
    """pygraphviz and its version, when it really draws a graph of one node; else ''."""
    try:
        import pygraphviz

        svg = pygraphviz.AGraph(string="digraph { a }").draw(format="svg", prog="dot")
    except (ImportError, OSError, ValueError, RuntimeError):  # not there, or there without the libraries it needs
        return ""
    return f"pygraphviz {version('pygraphviz')}" if svg and b"<svg" in svg else ""


def _extras() -> Iterator[Finding]:
    for package in EXTRAS:
        try:
            yield Finding("extra", package, version(package))
        except PackageNotFoundError:
            yield Finding("extra", package, "not installed", "note")


def is_healthy(found: tuple[Finding, ...]) -> bool:
    """Nothing that compiling needs is missing."""
    return all(finding.verdict != "fail" for finding in found)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check torch, engines, CPU and renderer."""
    found = findings()
    if as_json:
        told = {"healthy": is_healthy(found), "findings": [asdict(finding) for finding in found]}
        print(json.dumps(told, indent=2))
    else:
        _draw(found)
    if not is_healthy(found):
        raise click.exceptions.Exit(1)


def _draw(found: tuple[Finding, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "note": "yellow", "fail": "bold red"}
    table = Table("", "what", "found", "", "note")
    topic = ""
    for finding in found:
        if topic and finding.topic != topic:
            table.add_section()
        shown = "" if finding.topic == topic else finding.topic
        topic = finding.topic
        mark = Text(finding.verdict, style=styles[finding.verdict])
        table.add_row(shown, finding.name, Text(finding.value), mark, Text(finding.advice))
    console().print(table)
