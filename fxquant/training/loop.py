"""distil(): a plain training loop for a student and its teacher. Same seed, same result; the global RNG stays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.batches import Batches, Reader, length_of, reader_for
from fxquant.distilling import ALPHA, TEMPERATURE, Distillation
from fxquant.errors import NonFiniteError, UsageError
from fxquant.ledger import Ledger

WEIGHT_DECAY = 0.01


@dataclass(frozen=True, slots=True)
class Distilled:
    """What a loop did: the loss of every step, in order."""

    losses: tuple[float, ...]

    @property
    def steps(self) -> int:
        """How many there were."""
        return len(self.losses)

    def __str__(self) -> str:
        tenth = max(1, self.steps // 10)
        first, last = (sum(part) / len(part) for part in (self.losses[:tenth], self.losses[-tenth:]))
        return f"{self.steps:,} steps, loss {first:.4g} → {last:.4g}"


def distil(
    student: nn.Module,
    teacher: nn.Module | Distillation,
    batches: Any,
    *,
    epochs: int = 1,
    steps: int | None = None,
    lr: float = 1e-3,
    temperature: float = TEMPERATURE,
    alpha: float = ALPHA,
    features: Mapping[str, float] | None = None,
    seed: int = 0,
    keep_zeros: bool = True,
) -> Distilled:
    """Train `student`, in place, towards `teacher`: AdamW whose learning rate falls along a cosine to zero.

    Args:
        student: what trains: a plain model, the result of `compress()`, or a QATModel. Its mode is put back.
        teacher: a float model, or a Distillation (then temperature, alpha and features are its own).
        batches: a tensor, or a list or DataLoader of batches; of (inputs, labels) the labels are learned from too. A
            list comes in another order each epoch.
        epochs: how often through the batches; `steps`, where given, counts instead.
        lr: the learning rate to begin with.
        seed: of dropout, of a shuffling DataLoader, and of the order of a list.
        keep_zeros: weights that are exactly zero now (pruned ones) are zero afterwards. A tensor of zeros alone trains.

    Raises:
        FxQuantError: FXQ127 for options and data that mean nothing, FXQ316 when the loss becomes NaN or infinite;
            and what `Distillation` raises.
    """
    _check(steps, epochs, lr, seed)
    if not isinstance(student, nn.Module):
        raise _misuse(f"student is {type(student).__name__}", "give an nn.Module")
    options: dict[str, Any] = {"temperature": temperature, "alpha": alpha, "features": features}
    loss_of = teacher if isinstance(teacher, Distillation) else Distillation(teacher, **options)
    source = (batches,) if isinstance(batches, (Tensor, tuple, Mapping)) else batches
    reader = _reader(student, source)
    wanted = steps if steps is not None else epochs * _length(source)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not trained:
        raise _misuse("the student has no parameter that requires gradients", "call student.requires_grad_()")
    was_training, devices = student.training, sorted({p.device.index for p in trained if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        student.train()
        try:
            pruned = _pruned(trained) if keep_zeros else []
            losses = _run(student, loss_of, _feed(source, wanted, seed), reader, trained, pruned, wanted, lr)
        finally:
            student.train(was_training)
    return Distilled(losses)


def _run(
    student: nn.Module,
    loss_of: Distillation,
    feed: Iterator[Any],
    reader: Reader,
    trained: list[nn.Parameter],
    pruned: Pruned,
    steps: int,
    lr: float,
) -> tuple[float, ...]:
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(steps, 1))
    losses: list[float] = []
    for index, batch in enumerate(feed):
        call = reader.call(batch, index)
        labels = batch[1] if reader.is_labelled else None
        loss = loss_of(student, (call.args, dict(call.kwargs)), labels)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise NonFiniteError(
                "FXQ316",
                f"distillation diverged: the loss of step {index} is {losses[-1]}",
                hint=f"lower lr (it is {lr:g}), or check the batch for NaN",
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for parameter, zeros in pruned:
                parameter.masked_fill_(zeros, 0.0)
    return tuple(losses)


Pruned = list[tuple[nn.Parameter, Tensor]]  # a weight, and where it is zero


def _pruned(trained: list[nn.Parameter]) -> Pruned:
    """The weights with zeros in them. Biases and gains start at zero often, and so may a whole weight."""
    found = [(parameter, parameter.detach() == 0) for parameter in trained if parameter.dim() >= 2]
    return [(parameter, zeros) for parameter, zeros in found if bool(zeros.any()) and not bool(zeros.all())]


def _feed(source: Iterable[Any], steps: int, seed: int) -> Iterator[Any]:
    """So many batches, from the start again where they end. FXQ127 for what ends and cannot start again."""
    order, count = torch.Generator().manual_seed(seed), 0
    while count < steps:
        before = count
        for batch in _shuffled(source, order):
            if count == steps:
                return
            yield batch
            count += 1
        if count == before:
            told = f"the batches ended after {count} of {steps} steps, and cannot be read again"
            raise _misuse(told if count else "there is no batch", "give a list or a DataLoader of batches")


def _shuffled(source: Iterable[Any], order: torch.Generator) -> Iterable[Any]:
    if not isinstance(source, Sequence):
        return source
    return [source[index] for index in torch.randperm(len(source), generator=order).tolist()]


def _reader(student: nn.Module, source: Any) -> Reader:
    """Whether batches carry labels, as calibration decides it: by looking at the first one."""
    if not isinstance(source, Iterable):
        raise _misuse(f"batches is a {type(source).__name__}", "give a tensor, a list of batches or a DataLoader")
    if iter(source) is source:
        raise _misuse("batches is a generator, which is read only once", "give a list or a DataLoader of batches")
    with torch.random.fork_rng(devices=[]):
        first = Batches(source)
        try:
            return reader_for(student, first, None, Ledger())
        finally:
            first.close()


def _length(source: Any) -> int:
    length = length_of(source)
    if length is not None:
        return length
    raise _misuse(f"a {type(source).__name__} of batches has no length", "say how many steps: steps=")


def _check(steps: int | None, epochs: int, lr: float, seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        raise _misuse(f"seed={seed!r:.80}", "give a whole number of 64 bits")
    for name, value in (("steps", steps), ("epochs", epochs)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise _misuse(f"{name}={value!r}", "give a whole number from 1")
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 < lr < math.inf:
        raise _misuse(f"lr={lr!r}", "give a number above 0")


def _misuse(told: str, hint: str) -> UsageError:
    return UsageError("FXQ127", f"distil(): {told}", hint=hint)
