"""A stand-in for `aws ssm start-session` with AWS-StartSSHSession: the bytes of one connection to the host's
SSH server, which the agent on the host opens on the loopback address, as the real one does.

Agents that are connected leave a file in the folder `CHANGEOVER_TEST_AGENTS`: the instance's id, holding a
process id of the host. Beside that folder, the file `sessions` gets a line for each session; the optional
`CHANGEOVER_TEST_SESSION_SECONDS` is how long one takes to open.
"""

import argparse
import ctypes
import os
import socket
import sys
import threading
import time
from pathlib import Path

CLONE_NEWNET = 0x40000000


def main() -> None:
    parser = argparse.ArgumentParser(prog="aws ssm start-session")
    parser.add_argument("--target", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--document-name", required=True, choices=["AWS-StartSSHSession"])
    parser.add_argument("--parameters", required=True, choices=["portNumber=22"])
    told = parser.parse_args(sys.argv[3:])
    agents = Path(os.environ["CHANGEOVER_TEST_AGENTS"])
    with (agents.parent / "sessions").open("a") as sessions:
        sessions.write(f"{told.target}\n")
    time.sleep(float(os.environ.get("CHANGEOVER_TEST_SESSION_SECONDS", "0")))
    agent = agents / told.target
    try:
        process = agent.read_text()
    except FileNotFoundError:
        sys.exit(
            "An error occurred (TargetNotConnected) when calling the StartSession operation: "
            f"{told.target} is not connected."
        )
    with open(f"/proc/{process}/ns/net") as network:  # noqa: PTH123  # a namespace is entered by its file
        if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), CLONE_NEWNET):
            sys.exit(f"setns: {os.strerror(ctypes.get_errno())}")
    with socket.create_connection(("127.0.0.1", 22)) as connection:

        def up() -> None:
            while data := os.read(0, 1 << 16):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=up, daemon=True).start()
        while data := connection.recv(1 << 16):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
