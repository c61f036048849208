"""Whether the endpoint's published port answers, asked from this machine, and what repairs it."""

import http.client
import json
import ssl
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

from common import StepFailed, say
from components.caddyfile import HEALTH_PATH
from components.labels import label
from tools.environment import pulumi
from tools.host import is_on_aws

CONNECTIONS = Path(__file__).with_name("connections.sh")
SECONDS = 10
LATE = f"nothing within {SECONDS} s"
INSIDE = "http://127.0.0.1:2019/config/"
"""What the edge answers within its container alone, whatever it serves."""
OWN_FILES = 100
"""More than the edge has open for itself."""
AGAIN_SECONDS = 60
"""So long an edge that was started again may take until its port answers."""


def edge(stack: str) -> str:
    """The container of the stack's edge, running or not; empty where there is none. Raises StepFailed."""
    marks = [f"label={label('stack')}={stack}", f"label={label('role')}=edge"]
    find = ["docker", "ps", "--all", *(word for mark in marks for word in ("--filter", mark))]
    found = subprocess.run([*find, "--format", "{{.Names}}"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise StepFailed(f"docker could not list containers: {found.stderr.strip()}")
    return next(iter(found.stdout.split()), "")


def address(stack: str, container: str) -> str:
    """Where clients reach the endpoint, as `http(s)://host:port`; empty where it publishes no port."""
    if is_on_aws(stack):
        outputs = json.loads(pulumi("stack", "output", "--json", "--stack", stack, capture=True))
        return str(outputs.get("endpoint", "")).removesuffix("/v1")
    every = "{{range .HostConfig.PortBindings}}{{range .}}{{.HostIp}}:{{.HostPort}} {{end}}{{end}}"
    inspect = ["docker", "inspect", "--format", every, container]
    published = subprocess.run(inspect, capture_output=True, text=True, check=False).stdout.split()
    return f"http://{published[0]}" if published else ""


def silence(url: str) -> str:
    """Why nothing answers there; empty where something does. It asks the edge alone, for all that is behind
    it is looked at by the switch."""
    at = urlsplit(url)
    host, port = at.hostname or "", at.port
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent or believed
    connection = (
        http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)
        if at.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=SECONDS)
    )
    try:
        connection.request("GET", HEALTH_PATH)
        connection.getresponse().read()
    except TimeoutError:
        return LATE
    except (OSError, http.client.HTTPException) as error:
        return getattr(error, "strerror", None) or str(error) or repr(error)
    finally:
        connection.close()
    return ""


def connections(container: str) -> tuple[int, float]:
    """How many TCP connections a container has, with those that it has not accepted yet, and how many files
    it may open, each of which is one; no connections and no limit where that is not known."""
    words = ["docker", "exec", container, "sh", "-c", CONNECTIONS.read_text()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return 0, float("inf")
    files, there = done.stdout.split()
    return int(there), float("inf") if files == "unlimited" else float(files)


def answers_inside(container: str) -> bool:
    """Whether the edge answers within its container, to which neither a firewall nor Docker's forwarder is on
    the way."""
    words = ["docker", "exec", container, "timeout", str(SECONDS), "wget", "-q", "-O", "/dev/null", INSIDE]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def trouble(stack: str) -> str:
    """What is wrong with the port, and what to type; empty: it answers. Raises StepFailed."""
    return _look(stack)[0]


def _look(stack: str) -> tuple[str, bool]:
    """What is wrong with the port, and whether that is only an edge which carries all that it can."""
    container = edge(stack)
    if not container:
        return f"the edge is gone, so nothing listens. Run: make up STACK={stack}", False
    inspect = ["docker", "inspect", "--format", "{{.State.Running}}", container]
    if subprocess.run(inspect, capture_output=True, text=True, check=False).stdout.strip() != "true":
        return (
            f"the edge {container} is stopped. Run: docker start {container} (or make up STACK={stack})",
            False,
        )
    url = address(stack, container)
    if not url:
        return f"the edge {container} publishes no port. Run: make up STACK={stack}", False
    if not (why := silence(url)):
        return "", False
    text = f"port {urlsplit(url).netloc} does not answer ({why})"
    open_now, files = connections(container) if why == LATE else (0, 0.0)
    if open_now > files - OWN_FILES > 0:
        return (
            f"{text}: {container} has {open_now:,} connections, which is all that it takes. What it carries "
            "goes on, and others wait until one ends. To end them all, answers included, run: docker restart "
            f"{container}",
            True,
        )
    if why == LATE and not answers_inside(container):
        text += f": {container} runs, and gives no answer within its container either"
    elif not is_on_aws(stack):
        text += (
            f", while {container} runs: Docker no longer forwards the port, as happens when there were more "
            "connections than Docker may open files for"
        )
    elif why == LATE:
        say(f"Note: {text} from this machine; its security group lets in only `allowedCidrs`.")
        return "", False
    else:
        text += " from this machine"
    if is_on_aws(stack):
        return f"{text}. With the DOCKER_HOST of its instance, run: docker restart {container}", False
    return f"{text}. Run: docker restart {container} (or make up STACK={stack})", False


def cure(stack: str) -> None:
    """Starts the edge of a stack on this machine again where its port does not answer. Raises StepFailed.

    One that has all the connections that it takes is left as it is.
    """
    if is_on_aws(stack):
        return
    why, full = _look(stack)
    if full:
        say(f"Note: {why}.")
    if full or not why:
        return
    container = edge(stack)
    say(f"{why}. It is started again.")
    done = subprocess.run(["docker", "restart", container], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"{container} could not be started again: {done.stderr.strip()}")
    end = time.monotonic() + AGAIN_SECONDS
    while why := trouble(stack):
        if time.monotonic() > end:
            raise StepFailed(why)
        time.sleep(0.5)
