"""Every technique on one model: accuracy, size and latency side by side. It writes the README's table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from torch import nn

    from fxquant.tools.demo_model import Digits

WIDTH, EPOCHS, FINE_TUNING = 32, 20, 5
FOUR_BITS = """
schema = 1
[[rule]]
targets = ["Conv2d", "Linear"]
weight = { num_bits = 4 }
activation = {}
[[rule]]
targets = ["*"]
scheme = "int8"
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """The float model, its data, and how each candidate is made of them."""

    model: nn.Module
    digits: Digits

    def candidates(self) -> dict[str, Any]:
        """By name: a policy, or a function that makes the candidate."""
        return {
            "int8": "int8",
            "int8-dynamic": "int8-dynamic",
            "int8-weight-only": "int8-weight-only",
            "int4-weight-only": "int4-weight-only",
            "float16 weights": "float16",
            "bfloat16": "bfloat16",
            "hybrid chain": "hybrid",
            "4-bit weights, 8-bit activations": self._recipe(FOUR_BITS),
            "the same, QAT + distillation": self._qat(FOUR_BITS),
            "2:4 pruned, int8": self._compressed(self._half_zero),
            "channels at half the MACs, int8": self._compressed(self._half_channels),
            "low rank, int8": self._compressed(self._low_rank),
            "channels, low rank, distilled, int8": self._compressed(self._half_channels, self._low_rank),
        }

    def _recipe(self, text: str) -> Any:
        from fxquant.recipe import parse

        return parse(text, title="the 4-bit recipe")

    def calibration(self) -> list[Any]:
        """What every static candidate is calibrated on."""
        return self.digits.calibration_batches()

    def _labelled(self) -> list[Any]:
        """The training set, in batches of (pictures, labels)."""
        import torch

        pictures, labels = torch.split(self.digits.train_images, 64), torch.split(self.digits.train_labels, 64)
        return list(zip(pictures, labels, strict=True))

    def _qat(self, text: str) -> Callable[[nn.Module], nn.Module]:
        def made(model: nn.Module) -> nn.Module:
            import fxquant

            student = fxquant.compile(model, self._recipe(text), calibration_data=self.calibration(), mode="qat")
            fxquant.distil(student, model, self._labelled(), epochs=FINE_TUNING)
            return student.convert()

        return made

    def _compressed(self, *steps: Callable[[], Any]) -> Callable[[nn.Module], nn.Module]:
        def made(model: nn.Module) -> nn.Module:
            import fxquant
            from fxquant.passes.distil import Distil

            distil = Distil(teacher=model, data=self._labelled(), epochs=FINE_TUNING)
            passes = [step for make in steps for step in (make(), distil)]
            small = fxquant.compress(model, passes, example_inputs=self.digits.train_images[:8])
            return fxquant.compile(small, "int8", calibration_data=self.calibration())

        return made

    @staticmethod
    def _half_zero() -> Any:
        from fxquant.passes.prune_magnitude import PruneMagnitude

        return PruneMagnitude(pattern="2:4")

    @staticmethod
    def _half_channels() -> Any:
        from fxquant.passes.prune_channels import PruneChannels

        return PruneChannels(macs=0.5, round_to=4)

    @staticmethod
    def _low_rank() -> Any:
        from fxquant.passes.low_rank import LowRank

        return LowRank(energy=0.9)


def measure(*, seconds: float, seed: int = 0, epochs: int = EPOCHS) -> Any:
    """The Comparison of all techniques on the digits model."""
    import fxquant
    from fxquant.tools import digits_models
    from fxquant.tools.demo_model import load_digits

    digits = load_digits()
    model = digits_models.trained(lambda: digits_models.Cnn(WIDTH), digits, seed=seed, epochs=epochs)
    bench = Bench(model, digits)
    return fxquant.compare(
        model,
        bench.candidates(),
        digits_models.labelled_batches(digits),
        "accuracy",
        calibration_data=bench.calibration(),
        batch_sizes=(1, 64),
        seconds=seconds,
    )


def as_markdown(rows: list[Mapping[str, Any]]) -> str:
    """The README's table."""
    lines = ["| technique | accuracy | size | of float | latency, batch 64 | of float |", "|---|---|---|---|---|---|"]
    size, latency = rows[0]["size_bytes"], rows[0]["latency"]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['accuracy']:.2%} | {row['size_bytes']:,} | {row['size_bytes'] / size:.2f} "
            f"| {row['latency'] * 1e3:.2f} ms | {row['latency'] / latency:.2f} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--seconds", default=30.0, show_default=True, help="Of timing, in all.")
@click.option("--epochs", default=EPOCHS, show_default=True, type=click.IntRange(1, 1000))
@click.option("--seed", default=0, show_default=True)
@click.option("--chart", type=click.Path(dir_okay=False), help="Draw accuracy against size here.")
def main(seconds: float, epochs: int, seed: int, chart: str | None) -> None:
    """Every technique on one residual CNN, on the digits."""
    comparison = measure(seconds=seconds, seed=seed, epochs=epochs)
    click.echo(as_markdown([_plain(row) for row in comparison]))
    for row in comparison:
        if row.failure is not None:
            raise click.ClickException(f"{row.name}: {row.failure}")
    if chart is not None:
        comparison.plot(chart, kind="size")


def _plain(row: Any) -> dict[str, Any]:
    latency = row.latency(64)
    return {
        "name": row.name,
        "accuracy": row.metric or float("nan"),
        "size_bytes": row.size_bytes or 0,
        "latency": latency.median_seconds if latency is not None else float("nan"),
    }


if __name__ == "__main__":
    main()
