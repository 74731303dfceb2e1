"""The digits bench: accuracy, size, latency and SQNR of the demo's model, float32 against int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Measured:
    """Pairs are (float32, int8)."""

    seed: int
    target: str
    threads: int
    batch_size: int
    train_seconds: float
    compile_seconds: float
    accuracy: tuple[float, float]
    size_bytes: tuple[int, int]
    latency_seconds: tuple[float, float]
    latency_ratio: float
    sqnr_db: float
    ledger: list[Mapping[str, str]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def checks(self) -> tuple[Check, ...]:
        """The targets of the issue."""
        drop = (self.accuracy[0] - self.accuracy[1]) * 100
        told = f"{self.accuracy[0]:.2%} to {self.accuracy[1]:.2%}, seed {self.seed}"
        sizes = f"{self.size_bytes[0]:,} to {self.size_bytes[1]:,} bytes"
        return (
            Check("float32 accuracy", "at least", 97.0, self.accuracy[0] * 100, " %"),
            Check("accuracy lost to int8", "at most", 0.5, drop, " points", told),
            Check("size, int8 / float32", "at most", 0.30, self.size_bytes[1] / self.size_bytes[0], "", sizes),
        )


def measure(
    *,
    seed: int = 0,
    epochs: int = 10,
    preset: str = "int8",
    target: str = "auto",
    on_epoch: Callable[[int], object] = lambda epoch: None,
) -> Measured:
    """Train, compile, compare. ClickException where scikit-learn is missing."""
    import torch

    import fxquant
    from fxquant.comparing.timing import interleaved, ratio
    from fxquant.numerics import sqnr_db
    from fxquant.sizes import size_bytes
    from fxquant.tools import demo_model

    digits = _load_digits()
    started = perf_counter()
    model = demo_model.train(digits, seed=seed, epochs=epochs, on_epoch=on_epoch)
    trained = perf_counter()
    compiled = fxquant.compile(
        model,
        preset,
        calibration_data=digits.calibration_batches(),
        target=target,
        leaf_modules=demo_model.LEAVES,
    )
    finished = perf_counter()
    batch = digits.test_images[:BATCH_SIZE]
    with torch.no_grad():
        reference, actual = model(digits.test_images), compiled(digits.test_images)
        timings = interleaved({"float32": lambda: model(batch), "int8": lambda: compiled(batch)})
    return Measured(
        seed=seed,
        target=compiled.target,
        threads=torch.get_num_threads(),
        batch_size=len(batch),
        train_seconds=trained - started,
        compile_seconds=finished - trained,
        accuracy=(
            demo_model.accuracy(reference, digits.test_labels),
            demo_model.accuracy(actual, digits.test_labels),
        ),
        size_bytes=(size_bytes(model.state_dict().values()), size_bytes(compiled.state_dict().values())),
        latency_seconds=(timings["float32"].median, timings["int8"].median),
        latency_ratio=ratio(timings["int8"], timings["float32"]).median,
        sqnr_db=sqnr_db(reference, actual),
        ledger=list(compiled.ledger.as_dicts()),
    )


def _load_digits() -> Any:
    from fxquant.tools import demo_model

    try:
        return demo_model.load_digits()
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}: the digits need the extra, pip install 'fxquant[demo]'") from error


@click.command()
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True, help="May be repeated.")
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1, 1000))
@click.option("--preset", default="int8", show_default=True)
@click.option("--target", default="auto", show_default=True)
@options.as_json
def main(seeds: tuple[int, ...], epochs: int, preset: str, target: str, as_json: bool) -> None:
    """Digits: int8 within half a point of float32, at most 0.30 of its size."""
    checks = [
        check for seed in seeds for check in measure(seed=seed, epochs=epochs, preset=preset, target=target).checks()
    ]
    show("digits", checks, as_json=as_json)


if __name__ == "__main__":
    main()
