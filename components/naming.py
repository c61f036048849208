"""Names that more than one part knows: of resources, of an engine and of its weights by content. Pure.

A stack's state knows a resource by its type and its name. Under another name it would be another resource,
and the one that is there would be deleted. A child is called by its component's name and by what it is for.
"""

import re
from typing import Literal, cast

from switch.plan import EngineKind

IDENTITY, GUARD = "identity", "guard"
KEYS, PREPARE, COMMIT = "keys", "prepare", "commit"
PROXY, GATEWAY, EDGE, MONITOR = "proxy", "gateway", "edge", "monitor"
VLLM_CACHE, HISTORY = "vllm-cache", "monitor-history"
"""Volumes: with compiled kernels, and with what a monitor has measured."""

Part = Literal["step", "files", "ready", "configuration", "clients", "weights"]
"""What a step of a component is for, where another part knows it. `step`: all that it does; `files` fills its
volumes, `ready` waits for it, `clients` connects it with them. `weights` fetches an engine's; the volume that
has those of a kind of engine is called so too."""


def child(component: str, part: Part) -> str:
    """The name of a part of a component."""
    return f"{component}-{part}"


def engine(kind: EngineKind, content: str) -> str:
    """An engine; `content` is eight hexadecimal digits. It is part of the name of all that the engine has."""
    return f"{kind}-{content}"


NAMES: dict[str, str] = {"ollama": "Ollama", "vllm": "vLLM"}
"""Each kind of engine, as people write it."""

_ENGINE = re.compile(r"\b(ollama|vllm)-[0-9a-f]{8}\b")


def engine_in(text: str) -> tuple[EngineKind, str] | None:
    """Kind and name of the engine that is named first in a text; None: none is."""
    found = _ENGINE.search(text)
    return (cast(EngineKind, found[1]), found[0]) if found else None


def without_content(text: str) -> str:
    """The text with the kind of an engine in place of its name."""
    return _ENGINE.sub(r"\1", text)


def folder(model: str, content: str) -> str:
    """The folder of a model's weights from one source; `content` has no hyphen."""
    return f"{model}-{content}"


def of_folder(name: str) -> tuple[str, str]:
    """Model and content of a folder of weights; both empty where `name` is none."""
    model, _, content = name.rpartition("-")
    return (model, content) if model else ("", "")
