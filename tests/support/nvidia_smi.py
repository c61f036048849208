#!/usr/bin/env python3
"""A `nvidia-smi` without a card, for a switch on a machine that has none; a test double.

It knows one GPU, and of that what `--query-gpu=… --format=csv,noheader,nounits` asks for. `/gpu/says.json` in
its container says what is otherwise than well, by the names of the query; `{"error": text}` is a driver that
fails so.
"""

import json
import sys
from pathlib import Path

WELL = {
    "memory.total": 15360,
    "memory.used": 9000,
    "memory.free": 6360,
    "utilization.gpu": 60,
    "power.draw": 62.5,
    "temperature.gpu": 64,
}
"""In MiB, %, W and °C."""
SAYS = Path("/gpu/says.json")


def main() -> None:
    says = {**WELL, **(json.loads(SAYS.read_text()) if SAYS.exists() else {})}
    if "error" in says:
        sys.exit(str(says["error"]))
    (asked,) = (each.partition("=")[2] for each in sys.argv if each.startswith("--query-gpu="))
    print(", ".join(str(says[name]) for name in asked.split(",")))


if __name__ == "__main__":
    main()
