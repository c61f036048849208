"""Shell programs are files of their own, in which shellcheck finds nothing; and the texts made of them."""

import ast
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT
from components.shell import program

FOLDERS = sorted(each for each in ROOT.iterdir() if each.is_dir() and not each.name.startswith("."))
SHEBANG = re.compile(rb"#!.*\b(?:ba)?sh\n")


def is_shell(file: Path) -> bool:
    """A file of that name, or a program without one that a shell runs."""
    if file.suffix or not file.is_file():
        return file.suffix == ".sh"
    return SHEBANG.match(file.read_bytes()) is not None


SCRIPTS = [
    file for folder in [ROOT / ".ci", *FOLDERS] for file in sorted(folder.rglob("*")) if is_shell(file)
]
PARTS = {"boot.sh": "bash", "gpu_stays.sh": "sh", "probe.sh": "sh"}
"""What is put in front of these, or how they are run, says in which shell that is."""
OURS = [file for folder in FOLDERS if folder.name != "tests" for file in sorted(folder.rglob("*.py"))]
VALUES = ("AS_DECLARED", "EDITED", "PLACE", "MODEL", "TAG", "STORE", "FOLDER", "OWN", "OTHER")
KEPT = {
    "disown": "c27b6ad99f9e",
    "attach": "392267f6216b",
    "detach": "4f66470be89f",
    "edge_ca": "a0f400792c99",
    "edge_apply": "fe5191d61e91",
    "ollama_serve": "09ca30ce33f3",
    "ollama_create": "a69464b064f1",
    "ollama_pull": "78fc4538ca6d",
    "ollama_named": "7a3dd8e46ee4",
}
"""File → digest of the text that states and containers of stacks have. Another text is a step that runs
again, or another container."""
END_OF_A_BLOCK = re.compile(r"(?:^|;)\s*(?:fi|done|esac)\b", re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(ROOT)))
def test_shellcheck_finds_nothing(script: Path) -> None:
    shell = [f"--shell={PARTS[script.name]}"] if not script.read_text().startswith("#!") else []
    command = [str(Path(sys.prefix) / "bin" / "shellcheck"), "--exclude=SC1091", *shell, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_module_has_a_shell_program_as_a_text() -> None:
    for file in OURS:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not END_OF_A_BLOCK.search(node.value), f"{file.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize(
    ("text", "is_program"),
    [
        ("if [ -d a ]; then\n  echo b\nfi", True),
        ("if [ -d a ]; then echo b; else echo c; fi", True),
        ("for each in a b; do echo $each; done", True),
        ("case a in b) echo c ;; esac", True),
        ("cat /packages/* | tar -xzf - -C /wheels", False),
        ("what is done; it is fine, and the rest as well", False),
    ],
)
def test_a_program_is_known_by_the_end_of_a_block_on_a_line_of_its_own_or_not(
    text: str, is_program: bool
) -> None:
    assert (END_OF_A_BLOCK.search(text) is not None) is is_program


def test_a_text_begins_with_the_first_command_and_has_its_values() -> None:
    assert program("ollama_pull", TAG="a:b", MODEL="@TAG@").splitlines() == [
        "/bin/ollama pull a:b",
        "/bin/ollama cp a:b @TAG@",
    ]


def test_a_text_that_stacks_have_changes_only_where_that_is_meant() -> None:
    texts = {name: program(name, **dict.fromkeys(VALUES, "v")) for name in KEPT}
    assert {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in texts.items()} == KEPT


def test_a_line_that_goes_on_is_one() -> None:
    assert program("disown").startswith("[ ! -e components/owner.sh ] ||")
    assert "\\\n" not in program("disown")


def test_a_text_without_one_of_its_values_is_none() -> None:
    with pytest.raises(KeyError):
        program("ollama_pull", TAG="a:b")
