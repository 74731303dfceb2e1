"""Structured pruning to half of the MACs: how much faster the float model is, and what fine-tuning wins back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fxquant.passes.prune_channels import PruneChannels
    from fxquant.tools.demo_model import Digits

FASTER, LOST_POINTS = 1.5, 1.0


@click.command()
@options.models("resnet18")
@click.option("--macs", default=0.5, show_default=True, help="The share of the MACs that may remain.")
@click.option("--importance", default="l2", show_default=True)
@click.option("--round-to", default=16, show_default=True, help="16 floats fill a register of AVX-512.")
@click.option("--sizes", default="64,224", show_default=True, help="Sides of the pictures, with commas.")
@click.option("--batch-sizes", default="1,16", show_default=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--epochs", default=5, show_default=True, help="Of fine-tuning, on digits.")
@click.option("--seeds", default=3, show_default=True, help="Nets on digits.")
@options.quick
@options.tests
@options.as_json
def main(
    models: str,
    macs: float,
    importance: str,
    round_to: int,
    sizes: str,
    batch_sizes: str,
    rounds: int,
    epochs: int,
    seeds: int,
    quick: bool,
    tests: str | None,
    as_json: bool,
) -> None:
    """Latency of the float model at least 1.5 times that of the pruned one; accuracy on digits at most 1 point less."""
    from fxquant.passes.prune_channels import PruneChannels
    from fxquant.tools.bench.zoo import load_zoo, pick

    step = PruneChannels(macs=macs, importance=importance, round_to=1 if quick else round_to)
    checks: list[Check] = []
    for name, case in pick(load_zoo(tests), models).items():
        for side in (int(one) for one in sizes.split(",")):
            model = case.make(full=not quick)
            small = _pruned(model, step, _pictures(case, side, 1))
            for batch in (int(one) for one in batch_sizes.split(",")):
                told = f"{name}, {side}×{side}, batch {batch}"
                checks.append(_faster(told, model, small, _pictures(case, side, batch), 3 if quick else rounds))
    kept = PruneChannels(macs=macs, importance=importance, keep_mean=True)
    checks.append(_fine_tuned(kept, epochs=1 if quick else epochs, seeds=1 if quick else seeds))
    show(f"channels pruned to {macs:.0%} of the MACs, {step}", checks, as_json=as_json)


def _pictures(case: Any, side: int, batch: int) -> torch.Tensor:
    import torch

    channels = case.inputs(0, 1)[0].shape[1]
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(0))


def _pruned(model: nn.Module, step: PruneChannels, x: torch.Tensor) -> nn.Module:
    import fxquant

    return fxquant.compress(model, [step], example_inputs=(x,)).eval()


def _faster(told: str, model: nn.Module, small: nn.Module, x: torch.Tensor, rounds: int) -> Check:
    import torch

    from fxquant.comparing.timing import interleaved, ratio

    with torch.no_grad():
        timings = interleaved({"float": lambda: model(x), "pruned": lambda: small(x)}, rounds=rounds)
    found = ratio(timings["float"], timings["pruned"])
    medians = ", ".join(f"{side} {timing.median * 1e3:.2f} ms" for side, timing in timings.items())
    detail = f"{medians}; ratio {found}; {torch.get_num_threads()} threads"
    return Check(f"{told}: float / pruned latency", "at least", FASTER, found.median, "", detail)


def _fine_tuned(step: PruneChannels, *, epochs: int, seeds: int) -> Check:
    """Accuracy on digits that the CNN loses, pruned and fine-tuned: the mean over seeds."""
    from fxquant.tools.demo_model import load_digits
    from fxquant.tools.digits_models import Cnn, accuracy_on_test, trained

    digits = load_digits()
    found = []
    for seed in range(seeds):
        model = trained(Cnn, digits, seed=seed)
        small = _pruned(model, step, digits.train_images[:64])
        pruned = accuracy_on_test(small, digits)
        tuned = accuracy_on_test(_trained_on(small, digits, epochs), digits)
        found.append((accuracy_on_test(model, digits), pruned, tuned))
    before, pruned, after = (sum(column) / seeds for column in zip(*found, strict=True))
    told = (
        f"{before:.2%} float, {pruned:.2%} pruned, {after:.2%} after {epochs} epochs; mean of {seeds} seeds; {small!r}"
    )
    return Check("digits CNN: accuracy lost", "at most", LOST_POINTS, (before - after) * 100, " points", told)


def _trained_on(model: nn.Module, digits: Digits, epochs: int) -> nn.Module:
    """The model after so many epochs more, in eval mode; the global RNG stays as it was."""
    import torch

    from fxquant.tools.digits_models import BATCH_SIZE, shuffled

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        steps = epochs * -(-len(digits.train_labels) // BATCH_SIZE)
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
        for images, labels in shuffled(digits, epochs):
            optimizer.zero_grad()
            loss: torch.Tensor = torch.nn.functional.cross_entropy(model(images), labels)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return model.eval()


if __name__ == "__main__":
    main()
