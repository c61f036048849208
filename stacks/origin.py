"""Where the docker plugin in use comes from: its vendor, or a build from package registries."""

import os
from pathlib import Path

from components import pins

VENDOR = "from its vendor"


def docker_plugin_origin(home: Path | None = None) -> str:
    """`from its vendor`, or what the builder wrote into the plugin's folder as its ORIGIN.

    `home` is where Pulumi has its plugins; by default where a Pulumi with this environment looks.
    """
    home = home or Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    note = home / "plugins" / f"resource-docker-v{pins.DOCKER_PLUGIN}" / "ORIGIN"
    return note.read_text().strip() if note.exists() else VENDOR
