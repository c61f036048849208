"""How long a preview without changes takes, against a minimal program with as many Docker resources.

The two are previewed by turns, so that a busy machine slows both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from bench.stack import deployed, machine, table
from components import pins
from tests.support.project import Project, pulumi_yaml

MINIMAL = """
import pulumi, pulumi_docker as docker
provider = docker.Provider("host", host={host!r})
opts = pulumi.ResourceOptions(provider=provider)
image = docker.RemoteImage("image-0", name={image!r}, keep_locally=True, opts=opts)
for n in range(1, {images}):
    docker.RemoteImage(f"image-{{n}}", name={image!r}, keep_locally=True, opts=opts)
for n in range({networks}):
    docker.Network(f"network-{{n}}", name=f"bench-minimal-{{n}}", opts=opts)
for n in range({volumes}):
    docker.Volume(f"volume-{{n}}", name=f"bench-minimal-{{n}}", opts=opts)
for n in range({containers}):
    docker.Container(f"bench-minimal-{{n}}", image=image.image_id, command=["sleep", "3600"], opts=opts)
"""


def seconds(project: Project) -> float:
    """The time of one preview, which must find nothing to do."""
    began = time.monotonic()
    project.pulumi("preview", "--expect-no-changes")
    return time.monotonic() - began


def counts(project: Project) -> dict[str, int]:
    """How many Docker resources of each kind the stack has."""
    state = json.loads(project.pulumi("stack", "export"))
    kinds = [each["type"].rsplit(":", 1)[1] for each in state["deployment"]["resources"]]
    names = {"images": "RemoteImage", "networks": "Network", "volumes": "Volume", "containers": "Container"}
    return {key: kinds.count(kind) for key, kind in names.items()}


def minimal(folder: Path, full: Project) -> Project:
    """A stack with the same Docker resources and nothing else, deployed."""
    project = Project(folder, "bench-minimal")
    state = json.loads(full.pulumi("stack", "export"))
    resources = state["deployment"]["resources"]
    host = next(each["inputs"]["host"] for each in resources if each["type"] == "pulumi:providers:docker")
    (folder / "__main__.py").write_text(MINIMAL.format(host=host, image=pins.SWITCH.offline, **counts(full)))
    (folder / "Pulumi.yaml").write_text(pulumi_yaml("changeover"))
    project.up()
    return project


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=9, help="previews of each program (default: 9)")
    count = parser.parse_args().n
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
    main()
