"""How long a preview without changes takes, against a minimal program with as many Docker resources.

Run: `python -m bench.preview`. It deploys both on this machine's Docker engine.

The two are previewed by turns, so that a busy machine slows both. The table has the medians in seconds, and
their ratio.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from bench.stack import deployed, machine, table
from common import main_guard
from components import pins
from tests.support.project import Project, pulumi_yaml

MINIMAL = """
import pulumi, pulumi_docker as docker
provider = docker.Provider("host", host={host!r})
opts = pulumi.ResourceOptions(provider=provider)
image = docker.RemoteImage("image-0", name={image!r}, keep_locally=True, opts=opts)
for number in range(1, {images}):
    docker.RemoteImage(f"image-{{number}}", name={image!r}, keep_locally=True, opts=opts)
for number in range({networks}):
    docker.Network(f"network-{{number}}", name=f"bench-minimal-{{number}}", opts=opts)
for number in range({volumes}):
    docker.Volume(f"volume-{{number}}", name=f"bench-minimal-{{number}}", opts=opts)
for number in range({containers}):
    name = f"bench-minimal-{{number}}"
    docker.Container(name, image=image.image_id, command=["sleep", "3600"], opts=opts)
"""
"""The minimal program, with the numbers of Docker resources to be filled in."""


def seconds(project: Project) -> float:
    """How many seconds one preview takes, which must find nothing to do."""
    began = time.monotonic()
    project.pulumi("preview", "--expect-no-changes")
    return time.monotonic() - began


def counts(project: Project) -> dict[str, int]:
    """How many Docker resources of each kind a stack has, by the names in the minimal program."""
    state = json.loads(project.pulumi("stack", "export"))
    kinds = [each["type"].rsplit(":", 1)[1] for each in state["deployment"]["resources"]]
    names = {"images": "RemoteImage", "networks": "Network", "volumes": "Volume", "containers": "Container"}
    return {key: kinds.count(kind) for key, kind in names.items()}


def minimal(folder: Path, full: Project) -> Project:
    """Deploys a stack with as many Docker resources as `full` has and nothing else, in `folder`."""
    project = Project(folder, "bench-minimal")
    state = json.loads(full.pulumi("stack", "export"))
    resources = state["deployment"]["resources"]
    host = next(each["inputs"]["host"] for each in resources if each["type"] == "pulumi:providers:docker")
    (folder / "__main__.py").write_text(MINIMAL.format(host=host, image=pins.SWITCH.offline, **counts(full)))
    (folder / "Pulumi.yaml").write_text(pulumi_yaml("changeover"))
    project.up()
    return project


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=9, help="previews of each program (default: 9)")
    count = parser.parse_args().n
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # Python compiles our modules once, as it does for a user
    with deployed("bench-preview") as full:
        folder = full.folder / "minimal"
        folder.mkdir()
        small = minimal(folder, full)
        try:
            pairs = [(seconds(full), seconds(small)) for _ in range(count)]
        finally:
            small.pulumi("destroy", "--yes", "--skip-preview")
        resources = sum(counts(full).values())
    ours, base = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"Preview without changes, {resources} Docker resources, N = {count}, {machine()}\n")
    print(
        table(
            ["program", "median s"],
            [["Changeover", ours], ["minimal", base], ["ratio", f"{ours / base:.2f}"]],
        )
    )


if __name__ == "__main__":
    main_guard(main)
