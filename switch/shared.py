"""Paths, ports and names that the program and the switch have in common. What one tells the other is in
`switch.plan`."""

import re

PROJECT, STACK = "CHANGEOVER_PROJECT", "CHANGEOVER_STACK"
"""Environment variables of the switch's container: whose containers it looks after."""

SOCKET = "/var/run/docker.sock"
"""Docker's, in the switch's container."""

JOURNAL = "/journal"
"""Folder of the switch's volume."""

WEIGHTS = "/weights"
"""Folder of the switch with a volume for each kind of engine, and of a helper that fetches into one."""

LIVE = "/live"
"""Folder of the switch and of every proxy in which the switch says what may be asked, and who may ask."""

LIVE_FILE = "/tmp/live"
"""Where the switch says which engine is live, for the coordinator."""

PROXY_PORT = 8001
"""TCP port at which the gateway asks a proxy, and at which a proxy says what it does."""

PROXY_STATUS = "/status"
"""Path at which it says that."""

ALERTS_ALIAS, ALERTS_PORT = "alerts", 8880
"""Network alias and TCP port of what watches the alerts, where the stack has a monitor."""

COMPLETE = ".complete"
"""Name of the file by which a folder of weights says that they are whole."""

LABELS = "changeover."
"""How the labels of all of ours begin."""

TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
"""A tenant's name."""


def label(key: str) -> str:
    """A label of ours, as Docker has it."""
    return f"{LABELS}{key}"
