"""Docstrings for the reference: as Markdown, and those of names that are made at run time.

Read by mkdocstrings, which otherwise sees neither that ``>>>`` is an example and a line of symbols a formula, nor the
docstrings of classes and values that a function made (``AdaBelief = optimizer_of(...)``).
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from typing import Any

import griffe

import minimand

SECTION = re.compile(r"^\s*(Args|Attributes|Raises|Returns|Yields):$")
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?\.?([^`]+)`")
CODE = re.compile(r"(``.*?``|`[^`]*`)", re.DOTALL)
SYMBOLS = re.compile(r"[=^|<>]|\w_\w|\w_\{")
SENTENCE = re.compile(r"[A-Z][a-z]{3,} [a-z]{2,} ")
WORD = re.compile(r"\b[a-z]{4,}\b")
NAMES = {"softmax", "sqrt", "sigmoid", "sign", "clip", "mean", "spread", "logits", "target", "argmax"}


def markdown(text: str) -> str:
    """A docstring as Markdown."""
    blocks, in_section = [], False
    for i, block in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        if block.lstrip().startswith("==="):  # a table in columns
            blocks.append(_fenced("{ .text .columns .no-copy }", re.sub(r"^=.*\n?|``", "", block, flags=re.M)))
            continue
        if block.lstrip().startswith(">>>"):
            blocks.append(_fenced("pycon", block))
            continue
        in_section = in_section or any(SECTION.match(line) for line in block.splitlines())
        if i > 0 and not in_section and _is_formula(block):
            blocks.append(_fenced("{ .text .formula .no-copy }", block))
        else:
            in_section = in_section and (bool(SECTION.match(block.splitlines()[0])) or block.startswith(" "))
            blocks.append(_prose(block))
    return "\n\n".join(blocks)


def _is_formula(block: str) -> bool:
    """Whether a paragraph is symbols rather than sentences."""
    if block.startswith(("Source:", "    ")) or CODE.search(block) or SENTENCE.match(block):
        return False
    words = [word for word in WORD.findall(block) if word not in NAMES]
    return len(SYMBOLS.findall(block)) >= 2 and len(words) <= 0.14 * len(block.split())


def _fenced(language: str, block: str) -> str:
    return f"```{language}\n{textwrap.dedent(block).rstrip()}\n```"


def _prose(block: str) -> str:
    """Text in which only code is marked up."""
    block = re.sub(r"::$", ":", ROLE.sub(r"``\1``", block), flags=re.MULTILINE)
    if block.startswith("    "):
        return block
    parts = CODE.split(block)
    parts[::2] = [part.replace("*", "\\*") for part in parts[::2]]
    return "".join(parts)


class Docstrings(griffe.Extension):
    """Griffe's hooks."""

    def on_package(self, *, pkg: griffe.Module, loader: Any, **kwargs: Any) -> None:
        """Give names that are made at run time their signatures and docstrings; turn all into Markdown."""
        for room in minimand.ROOMS:
            module = importlib.import_module(f"{pkg.path}.{room}")
            for name in module.__all__:
                _describe(pkg[room], name, getattr(module, name))
        _rewrite(pkg, set())


def _describe(room: griffe.Module, name: str, value: Any) -> None:
    """Replace what is an assignment to a reader of the source by what it is when it runs."""
    member = room.members.get(name)
    found = member.final_target if isinstance(member, griffe.Alias) else member
    if not isinstance(found, griffe.Attribute):
        return
    if not inspect.isclass(value):
        if found.docstring is None and (text := inspect.getdoc(value)):
            found.docstring = griffe.Docstring(text, parent=found)
        found.value = None
        return
    made = griffe.Class(name, docstring=griffe.Docstring(inspect.getdoc(value) or "", lineno=1))
    init = griffe.Function("__init__", parameters=griffe.Parameters(*_parameters(value)))
    room.set_member(name, made)
    made.set_member("__init__", init)


def _parameters(made: type) -> list[griffe.Parameter]:
    kinds: Any = griffe.ParameterKind
    found = [griffe.Parameter("self", kind=kinds.positional_or_keyword)]
    function = getattr(made, "function", None)  # a loss module's options are those of its function
    source = inspect.signature(function or made).parameters.values()
    for each in source:
        if function is not None and each.default is each.empty:
            continue
        kind = kinds.keyword_only if function else kinds[each.kind.name.lower()]
        default = None if each.default is each.empty else repr(each.default)
        annotation = None if each.annotation is each.empty else str(each.annotation)
        found.append(griffe.Parameter(each.name, kind=kind, default=default, annotation=annotation))
    return found


def _rewrite(found: griffe.Object, seen: set[int]) -> None:
    if id(found) in seen:
        return
    seen.add(id(found))
    if found.docstring is not None:
        found.docstring.value = markdown(found.docstring.value)
    for member in found.members.values():
        if not isinstance(member, griffe.Alias):
            _rewrite(member, seen)
