"""The `fxquant` command as its user meets it: fast help, exit statuses, pipes, encodings, interrupts."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fxquant.errors import ArtifactError, CalibrationError, FxQuantError, UsageError
from fxquant.tools import cli as command_line
from fxquant.tools.cli import EXTRAS, INTERRUPTED, VERBS, cli, run
from fxquant.tools.terminal import ASCII
from support.command import interruptible

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
COMMAND = [sys.executable, "-m", "fxquant"]


def fxquant(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a process, outside the checkout."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, cwd=os.sep, env={**os.environ, **environment}, check=False
    )


@pytest.fixture
def verb(monkeypatch):
    """Let `fxquant probe` do what the test says."""

    def install(action) -> None:
        probe = click.Command("probe", callback=action)
        monkeypatch.setattr(command_line.LazyGroup, "get_command", lambda *_: probe)

    return install


def test_help_lists_every_verb_and_imports_no_torch():
    code = (
        "import sys\n"
        "from fxquant.tools.cli import run\n"
        "status = run(['--help'])\n"
        "heavy = {'torch', 'numpy', 'rich', 'networkx'} & set(sys.modules)\n"
        "sys.exit(f'help imports {heavy}' if heavy else status)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.sep, check=False)
    assert found.returncode == 0, found.stderr
    assert all(f"  {name}" in found.stdout for name in VERBS)


@pytest.mark.skipif(sys.platform == "win32", reason="the time of a child process is asked of POSIX")
def test_help_takes_less_than_a_third_of_a_second():
    """Time on the processor: help waits for nothing, and other work on the machine is not ours."""
    import resource

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert fxquant("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(once() for _ in range(5)) < 0.3


@pytest.mark.parametrize("name", sorted(VERBS))
def test_the_line_in_help_is_the_verbs_own(name):
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").splitlines()[0] == VERBS[name][1]


@pytest.mark.parametrize("name", sorted(VERBS))
def test_each_verb_has_a_help_of_its_own(name):
    found = CliRunner().invoke(cli, [name, "--help"])
    assert found.exit_code == 0
    assert f"Usage: cli {name}" in found.output


def test_the_version_is_the_packages(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"fxquant {version('fxquant')}\n"


def test_no_verb_prints_the_help(capsys):
    assert run([]) == 2
    captured = capsys.readouterr()
    assert "Verbs:" in captured.out + captured.err


@pytest.mark.parametrize("arguments", [["nope"], ["--nope"], ["explain", "a", "b"], ["passes", "--jso"]])
def test_a_wrong_command_line_is_status_2_with_a_message(arguments, capsys):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Error:" in captured.err


@pytest.mark.parametrize(
    ("kind", "status"), [(UsageError, 2), (CalibrationError, 4), (ArtifactError, 7), (FxQuantError, 1)]
)
def test_an_error_of_fxquant_is_its_text_on_stderr_and_its_status(verb, capsys, kind, status):
    def fail() -> None:
        raise kind("FXQ301", "no batch was seen", hint="give calibration_data")

    verb(fail)
    assert run(["probe"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "FXQ301 no batch was seen\n  hint: give calibration_data\n"


def test_any_other_exception_is_a_bug_and_stays_visible(verb):
    def fail() -> None:
        raise ZeroDivisionError

    verb(fail)
    with pytest.raises(ZeroDivisionError):
        run(["probe"])


def test_a_verb_whose_extra_is_missing_says_which_one_to_install(verb, capsys):
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'sklearn.datasets'", name="sklearn.datasets")

    verb(fail)
    assert run(["probe"]) == 2
    assert capsys.readouterr().err == (
        "FXQ112 this needs the package 'sklearn', which is not installed\n  hint: pip install \"fxquant[demo]\"\n"
    )


def test_a_missing_module_that_is_no_extra_is_a_bug_and_stays_visible(verb):
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'fxquant.nope'", name="fxquant.nope")

    verb(fail)
    with pytest.raises(ModuleNotFoundError):
        run(["probe"])


@pytest.mark.skipif(not PROJECT.exists(), reason="the project file is not part of the wheel: the checkout's run has it")
def test_every_extra_that_is_named_is_one_that_the_package_has():
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        wanted = {"sklearn": "scikit-learn"}.get(package, package)
        assert any(requirement.startswith(wanted) for requirement in extras[extra])


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, click.Abort])
def test_an_interrupt_is_status_130_without_a_traceback(verb, capsys, interrupt):
    def stop() -> None:
        raise interrupt

    verb(stop)
    assert run(["probe"]) == INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_process_that_is_interrupted_ends_with_130():
    code = "import os, signal; from fxquant.tools import cli; import click\n"
    code += "stop = click.Command('probe', callback=lambda: os.kill(os.getpid(), signal.SIGINT))\n"
    code += "cli.LazyGroup.get_command = lambda *_: stop\n"
    code += "import sys; sys.argv = ['fxquant', 'probe']; cli.main()\n"
    with interruptible():
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.sep, check=False)
    assert (found.returncode, found.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("arguments", [["explain"], ["passes"], ["--help"]])
def test_a_closed_pipe_is_quiet_and_no_failure(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen([*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, cwd=os.sep)
    os.close(writer)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, b"")


@pytest.mark.parametrize("arguments", [["passes"], ["explain", "FXQ507"]])
def test_an_ascii_terminal_gets_ascii(arguments):
    found = fxquant(*arguments, PYTHONIOENCODING="ascii")
    assert b"Traceback" not in found.stderr
    assert found.stdout and found.stdout.isascii()


def test_an_ascii_terminal_gets_stand_ins_for_what_it_cannot_show():
    code = "from fxquant.tools.terminal import prepare_streams; prepare_streams(); print('u8 × s8 → é')"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=os.sep, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert found.stdout == b"u8 x s8 -> ?\n"


def test_the_stand_ins_are_ascii():
    assert all(stand_in.isascii() for stand_in in ASCII.values())


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {}])
def test_what_goes_to_a_pipe_has_no_escape_sequences(environment):
    assert b"\x1b[" not in fxquant("passes", **environment).stdout


def test_no_color_on_a_terminal_means_no_color(monkeypatch):
    from fxquant.tools.terminal import console

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert console().no_color


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("arguments", [["explain"], ["passes"]])
def test_a_full_disk_behind_stdout_is_told_without_a_traceback(arguments):
    with open("/dev/full", "wb") as full:
        found = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, cwd=os.sep, check=False)
    assert (found.returncode, found.stderr) == (2, b"FXQ118 stdout cannot be written: No space left on device\n")


@pytest.mark.skipif(os.name == "nt", reason="a shell that can close a stream")
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_stream_that_the_shell_closed_takes_nothing_and_breaks_nothing(closed):
    """What is meant for stderr must not land on stdout either: `print` does that where stderr is None."""
    command = f'"{sys.executable}" -m fxquant explain FXQ000 {closed}'
    found = subprocess.run(["sh", "-c", command], capture_output=True, cwd=os.sep, check=False)
    assert found.returncode == 2 and found.stdout == b"" and b"Traceback" not in found.stderr
    assert (b"FXQ105" in found.stderr) == (closed == ">&-")
