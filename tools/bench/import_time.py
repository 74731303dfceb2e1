"""What starting costs: `fxquant --help`, and `import fxquant` over `import torch`, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import click

from fxquant.comparing.timing import Timing, interleaved_once
from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

HELP = "import sys; sys.argv = ['fxquant', '--help']\nfrom fxquant.tools.cli import main\n"
TELL = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"


@click.command()
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1, 1000))
@options.as_json
def main(rounds: int, as_json: bool) -> None:
    """`fxquant --help` under 0.3 s without torch; `import fxquant` at most 0.2 s over `import torch`."""
    commands = {"help": HELP + "main()", "torch": "import torch", "fxquant": "import torch, fxquant"}
    timings = interleaved_once({name: _runner(code) for name, code in commands.items()}, rounds=rounds + 1)
    warm = {name: Timing(timing.seconds[1:]) for name, timing in timings.items()}  # the first round fills file caches
    pairs = zip(warm["fxquant"].seconds, warm["torch"].seconds, strict=True)
    added = Timing(tuple(ours - torch for ours, torch in pairs)).median
    told = ", ".join(f"{name} {timing.median:.3f} s" for name, timing in warm.items())
    checks = [
        Check("fxquant --help", "at most", 0.3, warm["help"].median, " s", f"medians: {told}; {rounds} rounds"),
        Check("torch imported by --help", "at most", 0, float(_loads_torch()), "", "1 is yes, 0 is no"),
        Check("import fxquant over import torch", "at most", 0.2, added, " s", "median of paired differences"),
    ]
    show("import time", checks, as_json=as_json)


class _runner:
    """Runs code in a fresh interpreter. ClickException with its error where it fails."""

    def __init__(self, code: str) -> None:
        self.command: Sequence[str] = (sys.executable, "-c", code)

    def __call__(self) -> str:
        finished = subprocess.run(self.command, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise click.ClickException(f"this failed: {self.command[-1]}\n{finished.stderr[-2000:]}")
        return finished.stderr


def _loads_torch() -> bool:
    return _runner(TELL + HELP + "main()")().strip().endswith("True")


if __name__ == "__main__":
    main()
