"""A guard around code that reads what may come from anyone: nothing runs, nothing is written, little time, little memory.

An audit hook refuses and records what is forbidden while the guard is up. It cannot be taken off again, so it is armed by
a flag. Time is the processor's, because a machine may be busy; on systems without such a timer it is measured only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Allowance = Callable[[str, tuple[Any, ...]], bool]

FORBIDDEN = {
    *("exec", "compile", "import", "pickle.find_class", "code.__new__", "marshal.loads", "marshal.load", "function.__new__"),
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.startfile/2"),
    *("os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
    *("os.chown", "os.chdir", "os.putenv", "os.unsetenv", "os.utime", "subprocess.Popen", "pty.spawn"),
    *("_thread.start_new_thread", "_thread.start_joinable_thread", "signal.pthread_kill", "urllib.Request"),
}  # fmt: skip
FAMILIES = ("socket.", "ctypes.", "shutil.", "tempfile.", "ftplib.", "smtplib.", "http.client.", "cpython.run_")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True, slots=True)
class Limits:
    """What a guarded call may spend."""

    seconds: float = 2.0
    grown_bytes: int = 200 * 2**20


class GuardError(AssertionError):
    """A guarded call did what it must not, or took too much."""


class _Refused(BaseException):
    """Raised in the guarded code at the forbidden act; no `except Exception` of that code stops it."""


def nothing(event: str, arguments: tuple[Any, ...]) -> bool:
    """The allowance that allows nothing."""
    return False


def code_of_fx(event: str, arguments: tuple[Any, ...]) -> bool:
    """Allow what torch.fx does for a GraphModule: it compiles and runs the source that it wrote itself."""
    match event:
        case "compile":
            return str(arguments[1]).startswith("<eval_with_key>")
        case "exec":
            return str(arguments[0].co_filename).startswith("<eval_with_key>")
    return False


def signature_of_builtin(event: str, arguments: tuple[Any, ...]) -> bool:
    """Allow `inspect.signature` of an operator written in C: it parses the interpreter's own text, and runs nothing."""
    return (
        event == "compile" and str(arguments[1]) == "<unknown>" and bytes(arguments[0] or b"").startswith(b"def foo(")
    )


def guarded(call: Callable[[], T], *, allow: Allowance = nothing, limits: Limits = Limits()) -> T:
    """What `call()` gives or raises. GuardError where it did something forbidden, or went over the limits."""
    before = _resident_bytes()
    result, raised, refused = None, None, []
    started = time.process_time()
    try:
        with _interrupted_after(limits.seconds), _armed(allow) as refused:
            result = call()
    except (_Refused, Exception) as error:
        raised = error
    seconds, grown = time.process_time() - started, _peak_bytes() - before
    if seconds > limits.seconds:
        raise GuardError(f"{seconds:.2f} s of processor time, {limits.seconds} s are allowed") from raised
    if refused:
        raise GuardError(f"forbidden while guarded: {', '.join(refused)}") from raised
    if grown > limits.grown_bytes:
        raise GuardError(f"memory grew by {grown >> 20} MiB, {limits.grown_bytes >> 20} MiB are allowed") from raised
    if raised is not None:
        raise raised
    return result  # type: ignore[return-value]  # nothing was raised: this is what call() gave


class _State:
    """What the one hook of this process knows."""

    is_armed = False
    is_installed = False
    allow: Allowance = staticmethod(nothing)
    refused: list[str] = []  # noqa: RUF012  # replaced, never shared


@contextmanager
def _armed(allow: Allowance) -> Iterator[list[str]]:
    if not _State.is_installed:
        sys.addaudithook(_hook)
        _State.is_installed = True
    refused: list[str] = []
    _State.allow, _State.refused, _State.is_armed = staticmethod(allow), refused, True
    try:
        yield refused
    finally:
        _State.is_armed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _State.is_armed or not _is_forbidden(event, arguments) or _State.allow(event, arguments):
        return
    told = f"{event}({', '.join(repr(argument)[:60] for argument in arguments[:2])})"
    _State.refused.append(told)
    raise _Refused(told)


def _is_forbidden(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        _, mode, flags = arguments
        return bool(isinstance(flags, int) and flags & _WRITING) or any(letter in str(mode or "") for letter in "wax+")
    return event in FORBIDDEN or event.startswith(FAMILIES)


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Stop the code inside once it used that much processor time, where the system has a timer for it."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _Refused(f"more than {seconds} s")

    _leave_the_signal_stack()
    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds * 1.1, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def _leave_the_signal_stack() -> None:
    """Let handlers run on the stack in use: a plugin of OpenVINO that another thread unloads leaves one that is gone."""
    if sys.platform == "linux":
        disabled = _SignalStack(None, _SS_DISABLE, 0)
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(disabled), None) == 0


class _SignalStack(ctypes.Structure):
    """stack_t of <signal.h>."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


_SS_DISABLE = 2


def _resident_bytes() -> int:
    """Memory in use now; the peak is counted from here on where Linux lets it be reset."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak_bytes()  # the peak of the whole process: growth below it is not seen
    return _status_bytes("VmRSS") or _peak_bytes()


def _peak_bytes() -> int:
    found = _status_bytes("VmHWM")
    if found:
        return found
    try:
        import resource
    except ModuleNotFoundError:  # Windows: memory is not watched there
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(key: str) -> int:
    """A size from /proc/self/status; 0 where there is none."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0
