"""MODEL on the command line: every form is read as it is meant, every other text is FXQ117, and nothing is run to say so."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from fxquant.errors import FxQuantError, SchemaError, UnsupportedModelError, UsageError
from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.program import Stage
from fxquant.tools.loading import load, load_data
from fxquant.tools.model_reference import STAGES, Reference, parse
from fxquant.tools.output import check_output
from fxquant.tools.users_code import users_code


@pytest.fixture
def loaded(tmp_path):
    """Load what a file with this source names."""

    def write_and_load(source: str, factory: str = "make", read=load):
        path = tmp_path / "users.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        with users_code():
            return read(Reference(str(path), factory), seed=0)

    return write_and_load


def refusal(call) -> FxQuantError:
    with pytest.raises(FxQuantError) as caught:
        call()
    assert caught.value.code == "FXQ117", caught.value
    return caught.value


def test_the_stages_are_the_compilers():
    assert tuple(stage.name.lower() for stage in Stage) == STAGES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("package.module:make", Reference("package.module", "make")),
        ("module:Nets.small", Reference("module", "Nets.small")),
        ("package.bin:make", Reference("package.bin", "make")),
        ("path/to/file.py:make", Reference("path/to/file.py", "make")),
        ("file.py", Reference("file.py")),
        ("file.py:make@converted", Reference("file.py", "make", "converted")),
        ("file.py:make@Converted", Reference("file.py", "make", "converted")),
        ("file.py@traced", Reference("file.py", "", "traced")),
        ("/home/me@work/file.py:make@traced", Reference("/home/me@work/file.py", "make", "traced")),
        (r"C:\x\file.py:make", Reference(r"C:\x\file.py", "make")),
        (r"C:\x\file.py:make@lowered", Reference(r"C:\x\file.py", "make", "lowered")),
        ("C:/x/file.py:make", Reference("C:/x/file.py", "make")),
        (r"C:\x\file.py", Reference(r"C:\x\file.py")),
        ("C:file.py", Reference("C:file.py")),
        (r"C:\x\graph.json", Reference(r"C:\x\graph.json")),
        (r"\\host\share\file.py:make", Reference(r"\\host\share\file.py", "make")),
        ("graph.json", Reference("graph.json")),
        ("a:b/file.py:make", Reference("a:b/file.py", "make")),
        ("ünï.py:größe", Reference("ünï.py", "größe")),
    ],
)
def test_a_reference_is_read_as_it_is_meant(text, expected):
    assert parse(text) == expected


@given(
    folder=st.sampled_from(["", "a/", "/a b/", "C:\\x\\", "../", "a@b/"]),
    name=st.from_regex(r"[a-z_]{1,5}(\.py|\.json)", fullmatch=True),
    factory=st.sampled_from(["", "make", "Net", "a.b"]),
    stage=st.sampled_from(["", *STAGES]),
)
def test_a_reference_reads_back_from_its_own_text(folder, name, factory, stage):
    is_python = name.endswith(".py")
    reference = Reference(folder + name, factory if is_python else "", stage if is_python else "")
    assert parse(str(reference)) == reference


@example(text="A:A@")
@given(text=st.text(max_size=30) | st.text(alphabet="ab.:@\\/py", max_size=20))
def test_any_text_is_a_reference_or_fxq117(text):
    try:
        assert str(parse(text)).lower() == text.lower()
    except UsageError as error:
        assert error.code == "FXQ117"


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "a/m.PKL", "./m.bin", "m.ckpt", r"C:\m.pickle", "a/m.pt:make"])
def test_a_pickle_is_refused_and_says_why(name):
    assert "loading a pickle runs the code in it" in refusal(lambda: parse(name)).message


def test_a_saved_model_is_a_place_with_no_factory():
    found = parse("folder/model.fxq.safetensors@converted")
    assert found.is_artifact and (found.place, found.stage) == ("folder/model.fxq.safetensors", "converted")
    assert "has no factory" in refusal(lambda: parse("model.fxq.safetensors:make")).message


@pytest.mark.parametrize("text", ["", ":", ":make", "@traced", "a b:make", "net.onnx/x", "file.py:", "1:2", "-"])
def test_a_text_of_no_form_is_refused_with_the_forms(text):
    assert "package.module:factory" in refusal(lambda: parse(text)).hint


def test_a_stage_that_does_not_exist_is_refused_with_the_nearest():
    assert "'converted'" in refusal(lambda: parse("file.py:make@convertd")).hint


@pytest.mark.parametrize("text", ["graph.json@traced", "graph.json:make"])
def test_a_snapshot_has_neither_stage_nor_factory(text):
    assert refusal(lambda: parse(text)).hint == "give 'graph.json' alone"


NETS = """
    import torch
    from torch import nn

    def make():
        return nn.Linear(3, 2)

    def pair():
        return nn.Linear(3, 2), torch.ones(1, 3)

    def keywords():
        return nn.Linear(3, 2), {"input": torch.ones(1, 3)}

    def snapped():
        import fxquant
        return fxquant.snapshot(nn.ReLU())

    class Net(nn.Sequential):
        class Inner(nn.Identity):
            pass

    built = nn.Linear(3, 2)
    both = built, (torch.ones(1, 3),)
    lazily = lambda: built
"""


@pytest.mark.parametrize(
    ("factory", "kind"),
    [
        ("make", nn.Linear),
        ("Net", nn.Sequential),
        ("Net.Inner", nn.Identity),
        ("built", nn.Linear),
        ("lazily", nn.Linear),
        ("snapped", GraphSnapshot),
    ],
)
def test_a_function_a_class_or_the_thing_itself_gives_the_model(loaded, factory, kind):
    found = loaded(NETS, factory)
    assert isinstance(found.source, kind) and found.example is None


@pytest.mark.parametrize("factory", ["pair", "both", "keywords"])
def test_a_model_may_come_with_the_inputs_of_a_call(loaded, factory):
    found = loaded(NETS, factory)
    with torch.no_grad():
        assert found.source(*found.example.args, **found.example.kwargs).shape == (1, 2)


def test_the_seed_fixes_the_weights_and_leaves_the_callers_rng(loaded):
    state = torch.get_rng_state()
    first, second = loaded(NETS), loaded(NETS)
    assert torch.equal(first.source.weight, second.source.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_module_is_found_from_the_folder_of_the_call(tmp_path, monkeypatch):
    (tmp_path / "found_from_here.py").write_text(textwrap.dedent(NETS))
    monkeypatch.chdir(tmp_path)
    with users_code():
        assert isinstance(load(parse("found_from_here:make"), seed=0).source, nn.Linear)


def test_a_file_may_import_its_neighbours_and_leaves_no_trace(tmp_path):
    (tmp_path / "neighbour_of_users.py").write_text("from torch import nn\n")
    (tmp_path / "users.py").write_text(
        "import neighbour_of_users\n\ndef make():\n    return neighbour_of_users.nn.ReLU()\n"
    )
    path, modules = list(sys.path), set(sys.modules)
    with users_code():
        assert isinstance(load(parse(f"{tmp_path}/users.py:make"), seed=0).source, nn.ReLU)
    assert sys.path == path
    assert set(sys.modules) - modules == {"neighbour_of_users"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["neighbour_of_users.py", "users.py"]


def test_a_file_is_imported_once_while_a_verb_runs(tmp_path):
    path = tmp_path / "users.py"
    path.write_text("from torch import nn\nbuilt = nn.ReLU()\n")
    with users_code():
        assert load(parse(f"{path}:built"), seed=0).source is load(parse(f"{path}:built"), seed=0).source


def test_what_the_users_code_prints_is_not_on_stdout(loaded, capsys):
    loaded("from torch import nn\nprint('importing')\ndef make():\n    print('making')\n    return nn.ReLU()\n")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "importing\nmaking\n"


@pytest.mark.parametrize(
    ("source", "told", "where"),
    [
        ("def make():\n    return 1 / 0\n", "'{file}:make' raised: ZeroDivisionError: division by zero", 2),
        ("x = undefined\n", "importing 'users.py' failed: NameError: name 'undefined' is not defined", 1),
        ("import nothing_of_this_name\n", "importing 'users.py' failed: ModuleNotFoundError: No module", 1),
        ("def make(:\n", "importing 'users.py' failed: SyntaxError: invalid syntax", 1),
        ("from . import x\n", "importing 'users.py' failed: ImportError: attempted relative import", 1),
        ("\n\nraise SystemExit(3)\n", "importing 'users.py' failed: SystemExit: 3", 3),
        ("\ndef make(width):\n    return width\n", "'{file}:make' raised: TypeError: make() missing 1 required", 2),
    ],
)
def test_an_error_in_the_users_code_is_told_with_its_line_and_kept(loaded, tmp_path, source, told, where):
    error = refusal(lambda: loaded(source))
    assert error.message.startswith(told.format(file=tmp_path / "users.py"))
    assert error.where is not None and error.where.file == str(tmp_path / "users.py") and error.where.line == where
    assert isinstance(error.__cause__, (Exception, SystemExit)) and error.hint


def test_an_error_of_fxquant_in_the_users_code_passes_as_it_is(loaded):
    with pytest.raises(UnsupportedModelError) as caught:
        loaded("import fxquant\ndef make():\n    return fxquant.compile(3, 'int8')\n")
    assert caught.value.code == "FXQ201"


def test_an_interrupt_in_the_users_code_is_an_interrupt(loaded):
    with pytest.raises(KeyboardInterrupt):
        loaded("def make():\n    raise KeyboardInterrupt\n")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def make():\n    pass\n", "gives None, which is no model"),
        ("def make():\n    return 3\n", "gives a value of type int, which is no model"),
        ("def make():\n    return {'weight': 1}\n", "gives a value of type dict, which is no model"),
        ("from torch import nn\ndef make():\n    return nn.ReLU\n", "gives the class ReLU itself, which is no model"),
        ("from torch import nn\ndef make():\n    return nn.ReLU(), 1, 2\n", "gives a tuple of 3, which is no model"),
        ("from torch import nn\ndef make():\n    return nn.ReLU(), 'x'\n", "which is no call of it"),
        ("make = 3\n", "is of type int, which cannot be called"),
    ],
)
def test_a_factory_that_gives_no_model_is_told_what_it_gave(loaded, source, told):
    error = refusal(lambda: loaded(source))
    assert told in error.message and error.hint


def test_a_missing_attribute_is_refused_with_the_nearest_names(loaded):
    assert refusal(lambda: loaded(NETS, "mke")).hint == "did you mean 'make'?"


def test_a_missing_file_is_refused_with_the_nearest_names(tmp_path):
    (tmp_path / "resnet.py").write_text("")
    error = refusal(lambda: load(parse(f"{tmp_path}/resnt.py:make"), seed=0))
    assert "does not exist" in error.message and error.hint == "did you mean 'resnet.py'?"


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "net.py").mkdir()
    assert "is a folder" in refusal(lambda: load(parse(f"{tmp_path}/net.py:make"), seed=0)).message


@pytest.mark.parametrize("name", ["nothing_of_this_name", "torch.nothing", "torch.nn.functional.nothing", "no.such"])
def test_a_missing_module_is_refused(name):
    with users_code():
        assert f"there is no module '{name}'" in refusal(lambda: load(Reference(name, "make"), seed=0)).message


def test_a_missing_module_is_refused_with_the_files_that_are_here(tmp_path, monkeypatch):
    (tmp_path / "resnet.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with users_code():
        assert refusal(lambda: load(Reference("resnt", "make"), seed=0)).hint == "did you mean 'resnet'?"


def test_a_file_without_a_factory_is_refused_with_what_it_defines_and_not_run(loaded, tmp_path):
    error = refusal(lambda: loaded("raise SystemExit\nclass Net: ...\ndef _own(): ...\ndef make(): ...\n", ""))
    assert error.hint == f"one of '{tmp_path}/users.py:Net', '{tmp_path}/users.py:make'"


def test_a_module_without_a_factory_is_refused_with_what_it_defines():
    with users_code():
        error = refusal(lambda: load(parse("fxquant.tools.demo_model"), seed=0))
    assert "'fxquant.tools.demo_model:DigitsNet'" in error.hint


@pytest.mark.parametrize("source", ["", "def make(:", "_x = 3"])
def test_a_file_that_defines_nothing_says_so(loaded, source):
    assert refusal(lambda: loaded(source, "")).hint == "it defines no function or class"


def test_a_snapshot_file_reads_back(tmp_path, loaded):
    made = loaded(NETS, "snapped").source
    (tmp_path / "x.json").write_text(made.to_json())
    assert load(parse(f"{tmp_path}/x.json"), seed=0).source == made


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"\x80\x04K\x03.", b"[" * 100_000])
def test_a_file_that_is_no_snapshot_is_fxq620(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(SchemaError) as caught:
        load(parse(f"{tmp_path}/x.json"), seed=0)
    assert caught.value.code == "FXQ620"


def test_a_missing_snapshot_file_is_refused(tmp_path):
    assert "does not exist" in refusal(lambda: load(parse(f"{tmp_path}/x.json"), seed=0)).message


@pytest.mark.parametrize(
    "source",
    ["def data():\n    yield 1\n", "data = [1]\n", "import torch\ndata = torch.ones(2)\n", "def data(): return [1]\n"],
)
def test_data_is_a_generator_a_list_a_tensor_or_a_function_that_gives_it(loaded, source):
    assert [int(torch.as_tensor(item)) for item in loaded(source, "data", load_data)][:1] == [1]


@pytest.mark.parametrize("source", ["def data(): ...\n", "data = 3\n", "def data(): return 'text'\n", "data = 'text'"])
def test_data_that_holds_no_batches_is_refused(loaded, source):
    refusal(lambda: loaded(source, "data", load_data))


def test_a_snapshot_file_is_no_data():
    assert "is no data" in refusal(lambda: load_data(parse("x.json"), seed=0)).message


GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TEXTS = {
    "FXQ117": lambda net: load(parse(f"{net}:mak"), seed=0),
    "FXQ117-raises": lambda net: load(parse(f"{net}:fails"), seed=0),
    "FXQ117-arguments": lambda net: load(parse(f"{net}:wide"), seed=0),
    "FXQ117-nothing": lambda net: load(parse(f"{net}:gives_none"), seed=0),
    "FXQ117-factory": lambda net: load(parse(net), seed=0),
    "FXQ117-pickle": lambda net: parse("net.pt"),
    "FXQ117-saved": lambda net: parse("net.fxq.safetensors:make"),
    "FXQ118": lambda net: check_output("picture.gif", ("svg", "png", "pdf")),
    "FXQ118-folder": lambda net: check_output("no/such/x.svg", ("svg",)),
}
NET = """
from torch import nn

def make():
    return nn.ReLU()

def fails():
    return [][3]

def wide(width):
    return nn.Linear(width, width)

def gives_none():
    make()
"""


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_the_golden_one(name, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    with users_code(), pytest.raises(UsageError) as caught:
        TEXTS[name](str(tmp_path / "net.py"))
    text = str(caught.value).replace(f"{tmp_path}/", "") + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FXQUANT_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
