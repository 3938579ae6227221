"""The reference's pages: which names are public, in the order a reader should meet them."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

import minimand
from generator.docstrings import markdown
from minimand import papers
from minimand.claims import claim, evidence, runner

CLAIMS = (claim, evidence, runner)


def pages() -> dict[str, str]:
    """{name of the page: its Markdown}."""
    rooms = [importlib.import_module(f"minimand.{room}") for room in minimand.ROOMS]
    made = {module.__name__.split(".")[1]: _page(module) for module in (*rooms, papers)}
    import minimand.claims as claims

    body = "\n".join(_names(module, _defined_in(module), level=3, heading=True) for module in CLAIMS)
    return {**made, "claims": f"{_top(claims)}\n{body}"}


def _page(module: ModuleType) -> str:
    return f"{_top(module)}\n{_names(module, module.__all__, level=2)}"


def _top(module: ModuleType) -> str:
    name = module.__name__
    return f"---\ntitle: {name}\n---\n\n# `{name}`\n\n{markdown(inspect.getdoc(module) or '')}\n"


def _names(module: ModuleType, names: list[str], level: int, heading: bool = False) -> str:
    lines = [f"## `{module.__name__}`", "", markdown(inspect.getdoc(module) or ""), ""] if heading else []
    for name in names:
        lines += [f"::: {module.__name__}.{name}", "    options:", f"      heading_level: {level}"]
        lines += ["      members: false"] if isinstance(getattr(module, name), ModuleType) else []
        lines += [""]
    return "\n".join(lines)


def _defined_in(module: ModuleType) -> list[str]:
    """The public classes and functions of a module that has no list of them, in its order."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
