"""Which module of the project imports which: floors without a circle. No class has the name of another."""

import ast
import functools
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

from common import ROOT
from tools.touched import PROGRAM

Graph = Mapping[str, set[str]]


@functools.cache
def modules() -> Graph:
    """What each module imports, anywhere in it, by the paths of both; without tests."""
    return {file: set(imported(file)) - {file} for file in listed() if not file.startswith("tests/")}


def listed() -> list[str]:
    """All modules, as git knows them."""
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return files.stdout.split()


def types(file: str) -> Iterator[str]:
    """The public classes that a file defines, also within a function; outside of tests also the names that it
    gives other types."""
    for node in ast.walk(module := ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
    for node in module.body if not file.startswith("tests/") else ():
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Attribute):  # it names another's
            names = [each.id for each in node.targets if isinstance(each, ast.Name)]
            yield from (name for name in names if re.match("[A-Z]", name) and not name.isupper())


def imported(file: str) -> Iterator[str]:
    """The modules of this project that a file imports; what a package itself has is in its `__init__.py`."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names = list[str]()
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{each.name}" for each in node.names]
            names = [each if is_module(each) else node.module for each in inside]
        for path in (Path(*name.split(".")) for name in names):
            yield from (
                str(there)
                for there in (path.with_suffix(".py"), path / "__init__.py")
                if (ROOT / there).exists()
            )


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_no_module_imports_itself_by_others() -> None:
    assert len(list(TopologicalSorter(modules()).static_order())) > 200, "raises CycleError at a circle"


def test_no_folder_imports_itself_by_others() -> None:
    folders = defaultdict[str, set[str]](set)
    for file, its in modules().items():
        folders[file.split("/")[0]] |= {each.split("/")[0] for each in its if not each.startswith("tests/")}
    order = list(TopologicalSorter({name: its - {name} for name, its in folders.items()}).static_order())
    assert order.index("switch") < order.index("components") < order.index("stacks") < order.index("tools")


def test_all_that_the_program_imports_is_of_the_program() -> None:
    """Else CI would review no change of it."""
    seen, left = set[str](), ["__main__.py"]
    while left:
        if (file := left.pop()) not in seen:
            seen.add(file)
            left += imported(file)
    assert {file for file in seen if not file.startswith(PROGRAM)} == set()
    assert "switch/plan.py" in seen, "something was found"


def test_a_type_has_a_name_that_no_other_one_has() -> None:
    """Else whoever searches for one finds the other. Only a file of tests may use a name again for itself:
    in `tests/support`, which they share, no type has the name of one outside of tests."""
    where = defaultdict[str, list[str]](list)
    for file in listed():
        if not file.startswith("tests/") or file.startswith("tests/support/"):
            for name in types(file):
                where[name].append(file)
    twice = {
        name: files
        for name, files in where.items()
        if len(files) > 1 and not all(file.startswith("tests/") for file in files)
    }
    assert twice == {}
    assert where["State"] == ["switch/machine/state.py"], "something was found"
