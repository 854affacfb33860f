"""Every public class and function says what it is: the reference shows nothing else."""

import ast
import pkgutil
import re
from pathlib import Path

import unclip

SOURCE = Path(__file__).parents[2] / "src" / "unclip"


def public(file: Path) -> list[ast.ClassDef | ast.FunctionDef]:
    """Those at the top of a module, whose names do not begin with "_"."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def test_public_names_have_docstrings() -> None:
    missing = [
        f"{file.relative_to(SOURCE)}: {node.name}"
        for file in sorted(SOURCE.rglob("*.py"))
        for node in public(file)
        if not ast.get_docstring(node)
    ]
    assert missing == []


def test_modules_have_docstrings() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 100
    missing = [
        str(file.relative_to(SOURCE))
        for file in files
        if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert missing == []


def test_the_reference_has_the_public_names() -> None:
    page = (SOURCE.parents[1] / "docs/reference/README.md").read_text(encoding="utf-8")
    names = [name for name in unclip.__all__ if not name.startswith("_")]
    assert [name for name in names if f"\n::: unclip.{name}\n" not in page] == []


def test_everything_in_the_reference_exists() -> None:
    pages = (SOURCE.parents[1] / "docs/reference").glob("*.md")
    names = [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)]
    assert len(names) > 20
    assert [name for name in names if not exists(name)] == []


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or what a module has."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True
