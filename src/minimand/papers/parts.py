"""The public names that implement a paper, and a program that shows each."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import inspect
import sys
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import minimand
from minimand.source import Source, source_of


@dataclass(frozen=True)
class Part:
    """A public name that implements a paper, such as ``minimand.losses.comp_sum_loss``."""

    module: str
    name: str
    what: Any

    @property
    def path(self) -> str:
        """Where it is imported from."""
        return f"{self.module}.{self.name}"

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.what) or "").partition("\n")[0]

    @property
    def snippet(self) -> str:
        """Its docstring's example as a program, with its imports, that prints what the docstring shows; or empty."""
        examples = doctest.DocTestParser().get_examples(inspect.getdoc(self.what) or "")
        body = "".join(_printing(each.source) if each.want else each.source for each in examples)
        if not body:
            return ""
        own = [line for line in body.splitlines() if line.startswith(("import ", "from "))]
        rest = "\n".join(line for line in body.splitlines() if line not in own)
        lines = sorted({*own, *_imports(body, self)}, key=_place)
        return "\n".join([*lines, "", rest])


@lru_cache
def parts_by_paper() -> dict[str, tuple[Part, ...]]:
    """{arXiv number: the public names that declare it as their source}, in their rooms' order."""
    found: dict[str, list[Part]] = {}
    for room in minimand.ROOMS:
        module = importlib.import_module(f"minimand.{room}")
        for name in module.__all__:
            source = source_of(getattr(module, name))
            if isinstance(source, Source) and source.arxiv:
                found.setdefault(source.arxiv, []).append(Part(module.__name__, name, getattr(module, name)))
    return {arxiv: tuple(parts) for arxiv, parts in found.items()}


def public_path(value: Any) -> str | None:
    """The path under which a room hands ``value`` on, such as ``minimand.losses.comp_sum_loss``."""
    for room in minimand.ROOMS:
        module = importlib.import_module(f"minimand.{room}")
        for name in module.__all__:
            if getattr(module, name) is value:
                return f"{module.__name__}.{name}"
    return None


def _place(line: str) -> tuple[bool, bool, str]:
    """Where an import stands: the project's own last, whole modules first."""
    return "minimand" in line, line.startswith("from"), line


def _printing(source: str) -> str:
    """The source with a last expression printed, as a prompt would."""
    last = ast.parse(source).body[-1]
    if not isinstance(last, ast.Expr) or source.lstrip().startswith("print("):
        return source
    lines = source.splitlines(keepends=True)
    end, start = (last.end_lineno or last.lineno) - 1, last.lineno - 1
    lines[end] = _insert(lines[end], last.end_col_offset or 0, ")")
    lines[start] = _insert(lines[start], last.col_offset, "print(")
    return "".join(lines)


def _insert(line: str, at: int, text: str) -> str:
    raw = line.encode()
    return (raw[:at] + text.encode() + raw[at:]).decode()


def _imports(body: str, part: Part) -> list[str]:
    """Import statements for the names that ``body`` uses and doctest would find in the part's module."""
    names = [node for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)]
    stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    used = {node.id for node in names} - stored - set(vars(builtins))
    home = vars(sys.modules[getattr(part.what, "__module__", part.module)])
    plain, named = set(), {}
    for name in used:
        if name not in home:
            continue  # bound by a comprehension, a function's argument or an import in the example
        where, what = _home_of(name, home[name], part)
        if what is None:
            plain.add(f"import {where}" + ("" if where == name else f" as {name}"))
        else:
            named.setdefault(where, []).append(what)
    lines = sorted(plain) + [
        f"from {where} import {', '.join(sorted(found))}" for where, found in sorted(named.items())
    ]
    return lines


def _home_of(name: str, value: Any, part: Part) -> tuple[str, str | None]:
    """The module to import ``name`` from, and the name there; None where the module itself is meant."""
    if isinstance(value, ModuleType):
        parent, _, last = value.__name__.rpartition(".")
        return (parent, name) if parent and last == name else (value.__name__, None)
    path = public_path(value)
    if path is not None and path.endswith(f".{name}"):
        return path.removesuffix(f".{name}"), name
    return getattr(value, "__module__", part.module), name
