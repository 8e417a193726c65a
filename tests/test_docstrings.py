"""Every module and public class says what it is for, and the examples in docstrings are true. Types are mypy's to check."""

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "eval", "cluster", "jobs")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for_and_a_public_class_too(path: Path) -> None:
    """A function's name and types may say all; of a module's only class, the module's docstring speaks."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} has no docstring"
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in classes if len(classes) > 1 else []:
        assert ast.get_docstring(node), f"{path}:{node.lineno}: {node.name} has no docstring"


def test_the_examples_in_docstrings_are_true() -> None:
    shown = [path for path in MODULES if re.search(r"^\s+>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)]
    tried = 0
    for path in shown:
        result = doctest.testmod(importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)))
        assert result.failed == 0, path
        tried += result.attempted
    assert tried >= 8
