"""The caller's global state: what a compilation could disturb, put back on success and on every failure."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fxquant.autocasting import without_autocast

_LOCK = threading.RLock()  # torch's engine, RNG and symbolic tracer are process-global


@contextmanager
def one_compilation() -> Iterator[None]:
    """One thread at a time, without gradients or autocast, in a world that is put back as it was."""
    with _LOCK, untouched_world(), torch.no_grad(), without_autocast():
        yield


@contextmanager
def untouched_world() -> Iterator[None]:
    """RNG state, grad mode, default dtype, engine, thread count, warning filters and cwd stay what they are.

    Filters are kept by hand, not by `warnings.catch_warnings`: that also resets every "already warned" registry, so
    the caller would see its own once-only warnings twice.
    """
    random_state, is_grad_enabled = torch.get_rng_state(), torch.is_grad_enabled()
    dtype, engine, threads = torch.get_default_dtype(), torch.backends.quantized.engine, torch.get_num_threads()
    filters, show, folder = list(warnings.filters), warnings.showwarning, os.getcwd()
    try:
        yield
    finally:
        torch.set_rng_state(random_state)
        torch.set_grad_enabled(is_grad_enabled)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if torch.backends.quantized.engine != engine:
            torch.backends.quantized.engine = engine
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if list(warnings.filters) != filters:
            warnings.filters[:] = filters  # type: ignore[index]
            _forget_cached_filters()
        warnings.showwarning = show
        if os.getcwd() != folder:
            os.chdir(folder)


def _forget_cached_filters() -> None:
    """Python caches what a filter list decided; a changed list is announced by this (undocumented) call."""
    announce = getattr(warnings, "_filters_mutated", None) or getattr(warnings, "_filters_mutated_lock_held", None)
    if announce is not None:
        announce()
