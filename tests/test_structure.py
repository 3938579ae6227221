"""How the package hangs together: rooms import downward, parts need torch and NumPy alone, imports are lazy."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import minimand

ROOT = Path(minimand.__file__).parent

# What each room may import, beside itself. A new room goes under those that use it.
BASE = {"source", "hyper", "_checks", "_numerics"}
ALLOWED = {
    **dict.fromkeys(sorted(BASE), BASE),
    "divergences": BASE,
    "losses": BASE | {"divergences"},
    "optim": BASE | {"losses"},
    "calibration": BASE | {"divergences", "losses"},
    "study": BASE | {"divergences", "losses", "optim", "calibration"},
    "claims": BASE | {"divergences", "losses", "optim", "calibration", "study"},
    "papers": BASE | {"divergences", "losses", "optim", "calibration", "study", "claims"},
    "cli": BASE | {"divergences", "losses", "optim", "calibration", "study", "claims", "papers"},
    "__main__": {"cli"},
}
# What a room may import where it is used, never when the room is: an extra of the package.
WHEN_USED = {
    "divergences": {"scipy", "ot"},
    "losses": {"scipy"},
    "calibration": {"sklearn", "scipy"},
    "optim": {"botorch", "gpytorch", "curvlinops", "scipy"},
}
PARTS = [name for name in ALLOWED if name not in ("study", "claims", "papers", "cli", "__main__")]

NETWORK_MODULES = {
    *("aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "imaplib", "poplib", "requests", "smtplib", "socket"),
    *("socketserver", "telnetlib", "torchvision", "urllib", "urllib3", "webbrowser", "xmlrpc"),
}
NETWORK_MEMBERS = {"download_url_to_file", "load_state_dict_from_url", "urlopen", "urlretrieve"}


def files(room: str = "") -> list[Path]:
    """The room's files; all of the package's without one."""
    if not room:
        return sorted(ROOT.rglob("*.py"))
    return [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, by its full name; of ``from a import b`` also ``a.b``."""
    package = ("minimand", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__") and node.args:
            name = node.args[0]
            # A name made at run time is checked as far as its constant beginning.
            if isinstance(name, ast.JoinedStr):
                name = name.values[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("minimand.")}


def test_every_room_has_its_place_in_the_order():
    here = [p for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()]
    found = {p.stem if p.is_file() else p.name for p in here}
    assert found - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_under_it(room):
    known = set(ALLOWED)
    for path in files(room):
        upward = (rooms_imported(path) & known) - ALLOWED[room] - {room}
        assert not upward, f"{path.relative_to(ROOT)} imports {', '.join(sorted(upward))}"


def test_no_room_imports_in_a_circle():
    reached: dict[str, set[str]] = {}
    for room in ALLOWED:  # in order: what a room may import comes before it
        assert ALLOWED[room] - BASE <= set(reached), room
        reached[room] = ALLOWED[room]


@pytest.mark.parametrize("room", PARTS)
def test_parts_know_nothing_of_studies(room):
    assert not any(rooms_imported(path) & {"study", "cli", "claims"} for path in files(room))


@pytest.mark.parametrize("room", PARTS)
def test_parts_need_torch_and_numpy_alone(room):
    allowed = {*sys.stdlib_module_names, "torch", "numpy", "minimand", *WHEN_USED.get(room, ())}
    for path in files(room):
        foreign = {name.split(".")[0] for name in imports(path)} - allowed
        assert not foreign, f"{path.relative_to(ROOT)} imports {', '.join(sorted(foreign))}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_reaches_for_the_network(path):
    modules = {name.split(".")[0] for name in imports(path)}
    assert not modules & NETWORK_MODULES
    for node in ast.walk(ast.parse(path.read_text())):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        assert name not in NETWORK_MEMBERS
        assert not name.startswith("fetch_"), f"{name} downloads a data set"
        assert name != "hub", "torch.hub downloads weights"


def test_the_tests_of_imports_see_every_way_to_import(tmp_path, monkeypatch):
    source = """
import minimand.study.store
from minimand import cli
from ..losses import focal
from . import rule
def later():
    from minimand.study import compare
    importlib.import_module("minimand.claims")
    import_module(f"minimand.optim.{name}")
"""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "optim").mkdir()
    path = tmp_path / "optim" / "planted.py"
    path.write_text(source)
    assert rooms_imported(path) == {"study", "cli", "losses", "optim", "claims"}


def in_a_fresh_interpreter(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def loaded_by(statement: str) -> set[str]:
    listing = "import json, sys; print(json.dumps(list(sys.modules)))"
    return set(json.loads(in_a_fresh_interpreter(f"{statement}\n{listing}")))


def test_importing_minimand_loads_no_room_and_not_even_torch():
    loaded = loaded_by("import minimand")
    assert "torch" not in loaded
    assert "numpy" not in loaded
    assert not any(name.startswith("minimand.") for name in loaded)


def test_importing_the_parts_loads_neither_the_compiler_nor_what_studies_need():
    loaded = loaded_by("import minimand.divergences, minimand.losses, minimand.optim, minimand.calibration")
    beyond = loaded - loaded_by("import torch")
    for heavy in ("torch._dynamo", "torch._inductor", "scipy", "sklearn", "pandas", "rich", "typer", "ray"):
        assert heavy not in beyond, heavy
    assert not any(name.startswith(("minimand.study", "minimand.cli")) for name in loaded)


def test_rooms_load_on_first_use_and_a_mistyped_one_is_named():
    program = "import minimand; print(minimand.optim.SGD.__name__)"
    assert in_a_fresh_interpreter(program).strip() == "SGD"
    with pytest.raises(AttributeError, match="has no attribute 'lossess'; its rooms are divergences, losses, optim"):
        minimand.lossess


@pytest.mark.parametrize("room", minimand.ROOMS)
def test_every_name_that_a_room_hands_on_is_there_once(room):
    module = getattr(minimand, room)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
