"""Objects of two stacks on a cluster as golden files; `python -m tests.support.objects` writes them anew."""

from pathlib import Path

from common import ROOT
from stacks.blueprint import Blueprint, blueprint_of
from stacks.cluster import rendered
from stacks.settings import from_values

GOLDEN = ROOT / "tests" / "unit" / "golden"
STACKS: dict[str, dict[str, object]] = {
    "t4": {
        "engine": "vllm",
        "target": "kubernetes",
        "model": "qwen-2.5-coder-7b",
        "gpu": "t4",
        "context": 8192,
        "hosts": 3,
    },
    "cpu": {
        "engine": "ollama",
        "target": "kubernetes",
        "model": "tiny",
        "images": "offline",
        "gateway": "none",
        "hosts": 2,
    },
}
"""Their settings: cards and public images, and what runs on closed machines."""


def plan(stack: str, **changed: object) -> Blueprint:
    """The blueprint of one of them, with some settings changed."""
    return blueprint_of(from_values(stack, {**STACKS[stack], **changed}, ROOT, deploying=False))


def golden(stack: str) -> Path:
    return GOLDEN / f"objects-{stack}.yaml"


if __name__ == "__main__":
    for stack in STACKS:
        golden(stack).write_text(rendered(plan(stack)))
