"""`python -m fxquant.tools.bench`: the list of benches, and `python -m fxquant.tools.bench NAME`, which runs one."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import click

BENCHES = {
    "digits": "accuracy and size of the demo's model, float32 against int8",
    "raw_fx": "SQNR, latency, compile time and peak memory against raw prepare_fx / convert_fx",
    "facts": "what raw FX gets wrong in silence, beside what fxquant makes of it",
    "import_time": "`fxquant --help`, and `import fxquant` over `import torch`",
    "reports": "seconds and bytes of a report of ResNet-50, part by part",
    "bounds": "derived error bounds and estimates over measured errors, on every model of the zoo",
    "graphs": "snapshots and diffs of 10,000 nodes, DOT of 1,500, analyses",
    "artifacts": "loading a saved model against rebuilding it, and its bytes over the payload",
    "shrinking": "pruning and low rank: zeros in the file, bytes after compression, MACs, latency",
    "widths": "bytes and latency of a model in int8, int4 and bfloat16 weights, over float32",
    "dynamic": "int8-dynamic against eager mode's quantize_dynamic: latency and SQNR",
    "techniques": "every technique on one model: accuracy, size, latency (the table of the README)",
    "pruning": "latency of the float ResNet-18 at half its MACs, and accuracy of the digits CNN after fine-tuning",
    "peers": "fxquant against FX mode, PT2E, ONNX Runtime's quantizer and NNCF + OpenVINO: latency at equal SQNR",
    "native": "torch's own engines: latency against stock FX, each side on its best engine",
    "qat": "points that QAT wins back of those 4-bit weights lose, and its step against raw prepare_qat_fx",
    "overhead": "what a call of a compiled model costs beside its graph",
    "peak_memory": "one model on one side, in this process (raw_fx calls it)",
}


class _Benches(click.Group):
    """Each bench is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in BENCHES:
            return None
        name = f"fxquant.tools.bench.{cmd_name}"
        spec = find_spec(name)
        is_folder = spec is not None and spec.submodule_search_locations is not None
        command: click.Command = import_module(f"{name}.__main__" if is_folder else name).main
        return command


@click.group(cls=_Benches, invoke_without_command=True)
@click.pass_context
def main(ctx: click.Context) -> None:
    """List the benches, or run one."""
    if ctx.invoked_subcommand is None:
        for name, told in BENCHES.items():
            click.echo(f"python -m fxquant.tools.bench {name:<12} {told}")


if __name__ == "__main__":
    main()
