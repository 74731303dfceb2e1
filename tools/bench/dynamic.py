"""Dynamic quantization against eager mode's own `quantize_dynamic`, on the same engine: latency and SQNR."""

from __future__ import annotations

from typing import Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

MODELS, ENGINES = "encoder,lstm,gru", "x86,onednn"


@click.command()
@options.models(MODELS)
@click.option("--engines", default=ENGINES, show_default=True, help="Names of engines, with commas.")
@click.option("--rounds", default=15, show_default=True)
@options.quick
@options.tests
@options.as_json
def main(models: str, engines: str, rounds: int, quick: bool, tests: str | None, as_json: bool) -> None:
    """'int8-dynamic': latency at most 1.02 of eager mode's, at batch 1 and 16, and no more noise."""
    from fxquant.tools.bench.zoo import load_zoo, pick

    rounds = min(rounds, 3) if quick else rounds
    checks = [
        check
        for name, case in pick(load_zoo(tests), models).items()
        for engine_name in engines.split(",")
        for check in _checks(name, case, engine_name.strip(), full=not quick, rounds=rounds)
    ]
    show("dynamic, against eager mode", checks, as_json=as_json)


def _checks(name: str, case: Any, engine_name: str, *, full: bool, rounds: int) -> list[Check]:
    import torch
    from torch import nn

    import fxquant
    from fxquant.comparing.timing import interleaved, ratio
    from fxquant.torch_ao import engine, quiet, raw_fx

    model, inputs = case.make(full=full), case.inputs(0, 16, full=full)
    ours = fxquant.compile(model, "int8-dynamic", target=engine_name, example_inputs=inputs)
    found = []
    with engine(engine_name), quiet(), torch.no_grad():
        eager = raw_fx("quantize_dynamic")(model, {nn.Linear, nn.LSTM, nn.GRU}, dtype=torch.qint8)
        gained = fxquant.sqnr_db(_first(model(*inputs)), _first(ours(*inputs))) - fxquant.sqnr_db(
            _first(model(*inputs)), _first(eager(*inputs))
        )
        found.append(Check(f"{name} on {engine_name}: SQNR over eager", "at least", -0.3, gained, " dB"))
        for size in (1, 16):
            batch = case.inputs(0, size, full=full)
            calls = {"ours": _call(ours, batch), "eager": _call(eager, batch), "float": _call(model, batch)}
            timings = interleaved(calls, rounds=rounds)
            paired = ratio(timings["ours"], timings["eager"])
            told = ", ".join(f"{side} {timing.median * 1e3:.2f} ms" for side, timing in timings.items())
            what = f"{name} on {engine_name}, batch {size}: latency / eager"
            found.append(Check(what, "at most", 1.02, paired.median, "", f"{told}; ratio {paired}"))
    return found


def _call(model: Any, batch: tuple[Any, ...]) -> Any:
    return lambda: model(*batch)


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


if __name__ == "__main__":
    main()
