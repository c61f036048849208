"""How the deployer's SSH reaches the Docker host: one `ssh_config` for the provider and every step. Pure.

It names no host: the instance's id or address comes from whoever connects, so the file follows from the
settings alone and a reviewer can read it.
"""

from typing import Literal

USER = "ubuntu"
"""The user of the Deep Learning AMI for Ubuntu, a member of the group docker."""

IDLE_SECONDS = 30
"""For so long a connection that nobody uses is kept for the next one."""

Access = Literal["ssm", "direct"]


def host_alias(stack: str) -> str:
    """The name under which the host's key is known: addresses change hands, this name does not."""
    return f"changeover-{stack}"


def known_hosts(stack: str, host_public_key: str) -> str:
    """The only host key that is accepted."""
    return f"{host_alias(stack)} {host_public_key}\n"


def render(stack: str, *, access: Access, region: str, folder: str) -> str:
    """The ssh_config of `stack`. `folder` holds `known_hosts` and the private key `client_key`."""
    lines = [
        f"# The deployer's way to the Docker host of the stack {stack}.",
        "Host *",
        f"  User {USER}",
        f"  HostKeyAlias {host_alias(stack)}",
        f"  UserKnownHostsFile {folder}/known_hosts",
        "  GlobalKnownHostsFile /dev/null",
        "  StrictHostKeyChecking yes",
        "  HostKeyAlgorithms ssh-ed25519",
        f"  IdentityFile {folder}/client_key",
        "  IdentitiesOnly yes",
        "  PasswordAuthentication no",
        "  BatchMode yes",
        "  ConnectTimeout 20",
        "  ServerAliveInterval 15",
        "  ServerAliveCountMax 4",
        # Through SSM each connection is a session of its own, which takes seconds to open; the docker
        # provider and the steps open dozens. They share one. What the server refuses in it has its own.
        "  ControlMaster auto",
        f"  ControlPersist {IDLE_SECONDS}",
        # A socket's path has 108 characters at most, of which ssh takes 17 while it makes it. So it is
        # relative, as every other path here, and ends in the host's name (an instance's id, or an address).
        f"  ControlPath {folder}/to-%h",
    ]
    if access == "ssm":
        lines.append(
            "  ProxyCommand aws ssm start-session --region "
            f"{region} --target %h --document-name AWS-StartSSHSession --parameters portNumber=%p"
        )
    return "\n".join(lines) + "\n"
