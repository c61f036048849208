"""What the documentation names is there: links and their anchors, files, commands, modules and settings."""

import re
from pathlib import Path

import pytest

from common import ROOT
from proxy.adaptations import HEADERS_IN
from stacks.settings import declared
from switch.machine.transitions import TRANSITIONS, UNDER_WAY
from tests.unit.test_imports import modules

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FOLDERS = {"docs", *(each.parent.name for each in ROOT.glob("*/__init__.py"))}
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
LONGEST = 150
"""Lines of the README."""


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the page's headings in an address."""
    heads = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def code(page: Path) -> list[str]:
    """What stands in code: blocks by lines, and pieces of a sentence."""
    text = page.read_text()
    blocks = re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(
        r"`([^`]+)`", without_code(text)
    )


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_what_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(to), f"{link}: that page has {sorted(anchors(to))}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_settings_and_files_that_are_named_are_there(page: Path) -> None:
    for words in code(page):
        for target in re.findall(r"(?:^|[^\w-])make ([a-z][a-z-]*)", words):
            assert target in TARGETS, words
        for module in re.findall(r"python3? -m ((?:bench|tools|measure|policy)[\w.]*)", words):
            path = ROOT / module.replace(".", "/")
            assert (
                module.endswith("NAME")
                or path.with_suffix(".py").is_file()
                or (path / "__main__.py").is_file()
            ), words
        for key in re.findall(r"pulumi config set (?:--\w+ )*'?([a-zA-Z]+)", words):
            assert key == "KEY" or key in declared(ROOT), words
        if re.fullmatch(r"(?:[\w.-]+/)+[\w.-]*", words) and words.split("/")[0] in FOLDERS:
            assert (ROOT / words).exists(), words


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, more = set(), [ROOT / "README.md"]
    while more:
        page = more.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+)", without_code(page.read_text()))
        more += [(page.parent / each).resolve() for each in links if not re.match(r"[a-z]+:", each)]
    assert seen >= {*PAGES}


def test_the_table_of_what_is_changed_names_every_header_that_goes_on() -> None:
    (row,) = re.findall(r"^\| headers \| ([^|]+)", (ROOT / "docs/endpoint.md").read_text(), re.MULTILINE)
    on = {name.lower() for name in re.findall(r"`([^`]+)`", row)} - {"content-type", "application/json"}
    assert on == HEADERS_IN.keys()


def test_the_table_of_where_to_change_what_names_tests_that_are_there() -> None:
    for name in re.findall(r"`(test_\w+)`", ARCHITECTURE):
        there = [each for each in ("unit", "parts") if (ROOT / "tests" / each / f"{name}.py").is_file()]
        assert len(there) == 1, f"{name}: no test of that name without a folder"


def test_the_table_of_folders_names_each() -> None:
    rows = dict(re.findall(r"^\| `(\w+)/` \| (.+) \|$", ARCHITECTURE, re.MULTILINE))
    assert rows.keys() == {each.parent.name for each in ROOT.glob("*/__init__.py")} | {"rendered"}
    assert {*re.findall(r"`(\w+)/`", rows["tests"])} == {
        each.name for each in (ROOT / "tests").iterdir() if (each / "__init__.py").is_file()
    }


@pytest.mark.parametrize("folder", ["switch", "proxy"])
def test_the_table_of_folders_names_what_the_program_imports_of_a_service(folder: str) -> None:
    (row,) = re.findall(rf"^\| `{folder}/` \| (.+) \|$", ARCHITECTURE, re.MULTILINE)
    program = [its for file, its in modules().items() if file.startswith(("components/", "stacks/"))]
    assert {f"{folder}/{name}" for name in re.findall(r"`(\w+\.py)`", row)} == {
        each for its in program for each in its if each.startswith(f"{folder}/")
    }


def test_the_readme_promises_as_many_changes_as_were_measured() -> None:
    readme, proven = ((ROOT / name).read_text() for name in ("README.md", "docs/proven.md"))
    said = re.search(r"in \[(\d+) changes of real engines[^]]+and in ([\d,]+)\s+of a test engine", readme)
    measured = re.search(
        r"(\d+) flips of real engines, [\d,]+ requests[^#]+And there were ([\d,]+) flips with the engine",
        proven,
    )
    assert said is not None and measured is not None and said.groups() == measured.groups()


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST


def test_the_diagram_is_the_table_of_the_machine() -> None:
    (drawn,) = re.findall(
        r"^```mermaid\nstateDiagram-v2\n(.*?)^```$",
        ARCHITECTURE,
        re.MULTILINE | re.DOTALL,
    )
    steps = [
        f"    {each.source} --> {each.target}{f': {each.when}' if each.when else ''}" for each in TRANSITIONS
    ]
    ends = [f"    {phase} --> [*]" for phase in sorted({each.target for each in TRANSITIONS} - {*UNDER_WAY})]
    assert drawn.splitlines() == [f"    [*] --> {UNDER_WAY[0]}", *steps, *ends]
