"""What every command does in the same way."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import StepFailed, main_guard, write_whole


def test_a_failed_step_is_its_text_alone() -> None:
    def fail() -> None:
        raise StepFailed("Docker is not running")

    with pytest.raises(SystemExit, match=r"^error: Docker is not running$"):
        main_guard(fail)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_file_that_can_not_be_written_is_named_without_a_stack_trace(number: int) -> None:
    def fail() -> None:
        raise OSError(number, "no more of it", "/full/report.md")

    with pytest.raises(SystemExit, match=r"^error: no more of it: /full/report.md$"):
        main_guard(fail)


def test_a_full_disk_takes_nothing_of_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.md"
    write_whole(file, "of yesterday")

    def full(self: Path, text: str) -> int:
        with self.open("w") as half:
            half.write(text[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, "of today")
    assert file.read_text() == "of yesterday" and [*tmp_path.iterdir()] == [file]


def test_a_command_that_is_interrupted_prints_no_stack_trace_and_has_the_exit_status_of_that() -> None:
    wait = (
        "import time; from common import main_guard; main_guard(lambda: (print(flush=True), time.sleep(60)))"
    )
    # what a shell starts in the background ignores the signal
    heard = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {wait}"
    with subprocess.Popen(
        [sys.executable, "-c", heard], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=30)
    assert (run.returncode, said) == (130, b"")
