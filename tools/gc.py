"""`make gc`: frees weights and images on a stack's Docker host that neither serve nor lead back."""

import subprocess
import sys

from common import StepFailed, main_guard, say
from switch.answers import CAN_GO
from tools.ask import yes
from tools.status import switch_of


def gc(stack: str) -> None:
    """Names what can go, asks once (`YES=1` answers), and frees it. Raises StepFailed."""
    ask = ["docker", "exec", switch_of(stack), "python3", "-m", "switch", "gc"]
    named = subprocess.run(ask, capture_output=True, text=True, check=False)
    print(named.stdout, end="")
    if named.returncode != 0:
        raise StepFailed(f"nothing was freed. {named.stderr.strip()}".strip())
    if CAN_GO not in named.stdout:
        return
    alone = (
        f"nothing was freed: there is no terminal, so nobody can be asked. Run: YES=1 make gc STACK={stack}"
    )
    if not yes("Free these?", alone):
        say("Nothing was freed.")
        return
    again = subprocess.run(ask, capture_output=True, text=True, check=False)
    if again.stdout != named.stdout:
        raise StepFailed(
            "nothing was freed: what can go is not what was named any more. Run the same command again"
        )
    if subprocess.run([*ask, "--free"], check=False).returncode != 0:
        raise StepFailed(f"not everything could be freed; `make gc STACK={stack}` shows what is left")


if __name__ == "__main__":
    main_guard(lambda: gc(sys.argv[1]))
