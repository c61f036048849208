"""What every command does in the same way."""

import signal
import subprocess
import sys

import pytest

from common import StepFailed, main_guard


def test_a_failed_step_is_its_text_alone() -> None:
    def fail() -> None:
        raise StepFailed("Docker is not running")

    with pytest.raises(SystemExit, match=r"^error: Docker is not running$"):
        main_guard(fail)


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
