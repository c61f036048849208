"""What the clients in Python have in common: a line of JSON says what to do, and a line says what came of it.

Such a program runs where the client is installed, and finds the endpoint and its model in the environment.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT, MODEL = os.environ.get("ENDPOINT", ""), os.environ.get("MODEL", "")
BASE, KEY = f"{ROOT}/v1", "none"

SAY = "Say only this one word: harbour"
"""The one instruction that the test engine does."""
USER = {"role": "user", "content": SAY}
TALK = {"role": "user", "content": "Tell me a long story."}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def serve(*functions: Callable[..., Any]) -> None:
    """Answers each line of stdin with what the function of its `step` gives, or with its error, and how long
    it took in seconds."""
    steps = {each.__name__: each for each in functions}
    out, sys.stdout = sys.stdout, sys.stderr  # LiteLLM prints advice with its errors
    print(json.dumps({"steps": list(steps)}), flush=True, file=out)
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.monotonic()
        try:
            said = {"gave": steps[asked.pop("step")](**asked)}
        except Exception as error:
            said = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps({**said, "seconds": time.monotonic() - began}, default=str), flush=True, file=out)
