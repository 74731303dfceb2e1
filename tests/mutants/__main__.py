"""`python -m mutants` in the tests folder: plant each fault in a copy of the library and run the laws against the copy.

Prints which faults the laws find. Exit status 1 when more than one survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mutants.catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
MOST_SURVIVORS = 1
MOST_SECONDS = 1200  # of one mutant: a fault that makes a loop endless is found too
_PARTS = {"fxquant": "fxquant", "passes": "fxquant/passes", "tools": "fxquant/tools"}  # as the wheel has them


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant: the test that killed it, or '' for a survivor."""

    mutant: Mutant
    killer: str
    seconds: float


def planted(mutant: Mutant, folder: Path) -> Path:
    """A copy of the library with this fault, laid out as installed; the folder that has to come first on the path."""
    for part, place in _PARTS.items():
        shutil.copytree(ROOT / part, folder / place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    top, _, rest = mutant.file.partition("/")
    file = folder / _PARTS[top] / rest
    source = file.read_text(encoding="utf-8")
    if source.count(mutant.before) != 1:
        raise SystemExit(f"{mutant.name}: its line stands {source.count(mutant.before)} times in {mutant.file}")
    file.write_text(source.replace(mutant.before, mutant.after), encoding="utf-8")
    return folder


def judged(mutant: Mutant) -> Verdict:
    """Run its laws, one path after the other, until one fails."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = planted(mutant, Path(name))
        for law in mutant.laws:
            killer = _failing(law, folder)
            if killer:
                return Verdict(mutant, killer, time.perf_counter() - started)
    return Verdict(mutant, "", time.perf_counter() - started)


def _failing(law: str, folder: Path) -> str:
    """The first test of a path that fails on the copy; '' where all pass."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "CI": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(ROOT / law)]
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-W", "default", "--deselect", _OWN]
    try:
        done = subprocess.run(
            [*command, *options], env=environment, capture_output=True, text=True, timeout=MOST_SECONDS, cwd=folder
        )
    except subprocess.TimeoutExpired:
        return f"{law} (no end)"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not failed:
        return f"{law} (does not even start)"
    return failed[0].split(" - ")[0].split(" ", 1)[1] if failed else ""


_OWN = "tests/laws/test_mutants.py"


def main() -> int:
    """Judge all, or those whose names contain what is asked."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; none: all")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    chosen = [m for m in MUTANTS if not asked.names or any(name in m.name for name in asked.names)]
    survivors = 0
    with ThreadPoolExecutor(asked.jobs) as pool:
        for verdict in pool.map(judged, chosen):
            survivors += not verdict.killer
            told = f"killed by {verdict.killer}" if verdict.killer else "SURVIVES"
            print(f"{verdict.mutant.name:<45} {told}  ({verdict.seconds:.0f} s)", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")
    return int(survivors > MOST_SURVIVORS)


if __name__ == "__main__":
    sys.exit(main())
