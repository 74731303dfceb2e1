"""Fuzz each format for a bounded time: `python tests/fuzzing/run.py --seconds 20 [--target recipes]`.

Exit status 0 when nothing was found. A crash is kept in the folder that `--keep` names, and printed. libFuzzer prints
executions and coverage. Each target runs in a process of its own, because libFuzzer ends the process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `support`, and this folder's `fuzzing`


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument("--target", choices=("recipes", "snapshots", "artifacts"), help="only this one")
    parser.add_argument("--keep", default="fuzzing-crashes", help="folder for what was found")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _fuzz(options.target, options.seconds, options.keep, options.inside)
    names = (options.target,) if options.target else ("recipes", "snapshots", "artifacts")
    failed = [name for name in names if _started(name, options.seconds, options.keep)]
    print(f"found something in: {', '.join(failed)}; see {options.keep}/" if failed else "nothing was found")
    return 1 if failed else 0


def _started(name: str, seconds: int, keep: str) -> int:
    print(f"== {name}, {seconds} s", flush=True)
    with tempfile.TemporaryDirectory() as corpus:
        command = [
            sys.executable,
            __file__,
            "--target",
            name,
            "--seconds",
            str(seconds),
            "--keep",
            keep,
            "--inside",
            corpus,
        ]
        return subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def _fuzz(name: str, seconds: int, keep: str, corpus: str) -> int:
    import atheris

    with atheris.instrument_imports(include=["fxquant"], enable_loader_override=False):
        from fuzzing.targets import TARGETS

        import fxquant.artifact.inspecting
        import fxquant.graphs.codec  # noqa: F401  # both are imported late by the targets, and are to be instrumented

    target = TARGETS[name]
    for number, seed in enumerate(target.seeds()):
        (Path(corpus) / f"seed{number}").write_bytes(seed)
        target.one(seed)  # what is imported late is imported before the guard goes up
    _warm(target.one)
    Path(keep).mkdir(parents=True, exist_ok=True)
    arguments = [f"-max_total_time={seconds}", f"-artifact_prefix={keep}/{name}-", "-print_final_stats=1", corpus]
    atheris.Setup([sys.argv[0], *arguments], target.one)
    atheris.Fuzz()
    return 0


def _warm(one: Callable[[bytes], None]) -> None:
    for data in (b"", b"[", b"\xff", b'schema = 1\nignore = ["re:("]', b'{"schema": 1}', b"x" * 400):
        one(data)


if __name__ == "__main__":
    sys.exit(main())
