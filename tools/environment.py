"""The folder `.changeover`: CLI, plugins, state and passphrase of this checkout, and its shell variables.

Nothing outside the project's folder and the cache folder is touched: not the person's Pulumi login,
not their Docker.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import offline.tools
from common import ROOT, StepFailed, cache_root, main_guard, say
from components import pins
from tools import vendor

HOME = ROOT / ".changeover"
BIN = HOME / "bin"
PULUMI_HOME = HOME / "pulumi"
STATE = HOME / "state"
PASSPHRASE = HOME / "passphrase"
ENV_FILE = HOME / "env.sh"
BACKEND = "CHANGEOVER_BACKEND"
"""Variable that names another place for the state than this checkout, such as a bucket."""
FETCHES_NONE = "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"
"""Pulumi's variable that has it fetch no plugin, unless it is `false`. Where plugins are built it never is:
they must not be mixed with those that are downloaded."""
ASK_FOR_PLUGINS = ("destroy", "preview", "refresh", "up")
"""What Pulumi does by its plugins."""


def backend_in(folder: Path) -> str:
    """The URL of a state that is kept in `folder`, an absolute path.

    Without metadata beside each file: once a Pulumi is killed while it writes that, none can read the state
    (`failed to load checkpoint: EOF`). The state itself is written beside its place and renamed.
    """
    return f"{folder.as_uri()}?metadata=skip"


def variables() -> dict[str, str]:
    """The environment in which `pulumi` works on this checkout."""
    return {
        "CHANGEOVER_CACHE": str(cache_root()),
        "PULUMI_HOME": str(PULUMI_HOME),
        # in CI, and for a stack that several people run, the state is elsewhere
        "PULUMI_BACKEND_URL": os.environ.get(BACKEND) or backend_in(STATE),
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(PASSPHRASE),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PYTHONUTF8": "1",  # the program's texts are UTF-8, whatever the locale is
        # Before a program runs, Pulumi would fetch the plugin of every package in .venv, AWS's too, and where
        # that can't be had try again each time, for seconds. So it looks for what the program asks for.
        "PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL": "true",
        # Pulumi compares with nothing what it fetches by itself.
        FETCHES_NONE: "true" if _built() else os.environ.get(FETCHES_NONE, "true"),
    }


def process_environment(venv: Path = Path(sys.prefix)) -> dict[str, str]:
    """The environment of a child process: `variables`, with the CLI and a virtual environment first on
    PATH."""
    path = os.pathsep.join([str(BIN), str(venv / "bin"), os.environ["PATH"]])
    return {**os.environ, **variables(), "PATH": path, "VIRTUAL_ENV": str(venv)}


def pulumi(
    *words: str,
    capture: bool = False,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
) -> str:
    """Run the CLI on this checkout, or on another in `cwd`; its output goes to the terminal, or is returned.

    Raises StepFailed when it exits non-zero.
    """
    if words[:1] == ("up",):
        end_left()
    by_plugins = words[0] in ASK_FOR_PLUGINS and "--stack" in words
    program = cli(words[words.index("--stack") + 1] if by_plugins else None)
    with subprocess.Popen(
        [program, *words],
        cwd=cwd,
        env=environment or process_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.PIPE if capture else None,
        text=True,
    ) as process:
        said, complained = _to_its_end(process, stdin)
    if process.returncode < 0:
        end_left()
    if process.returncode != 0:
        detail = f":\n{complained.strip()}" if capture else "; its message is above"
        raise StepFailed(f"`pulumi {' '.join(words)}` exited {process.returncode}{detail}")
    return said


def _to_its_end(process: subprocess.Popen[str], stdin: str) -> tuple[str, str]:
    """What it says on stdout and stderr where these are pipes.

    Ctrl-C is for it as well: it then ends what it has begun and unlocks the stack. `subprocess.run` would
    kill it a quarter of a second later.
    """
    given: str | None = stdin
    interrupted = False
    while True:
        try:
            said, complained = process.communicate(given)
            break
        except KeyboardInterrupt:
            given, interrupted = None, True  # what is not written yet of it is kept
    if interrupted:
        raise KeyboardInterrupt
    return said or "", complained or ""


def end_left() -> None:
    """Ends plugins of this checkout whose `pulumi` was killed. Others end by themselves, and that for
    Kubernetes doesn't: its health check of the CLI cancels a context that nothing looks at (pulumi 3.215,
    `pkg/resource/provider/main.go`)."""
    import psutil  # not at the top: this module is read before its packages are there

    mine = f"{PULUMI_HOME / 'plugins'}{os.sep}"
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if (process.info["cmdline"] or [""])[0].startswith(mine):
                parent = process.parent()
                if parent is None or parent.name() != "pulumi":
                    process.kill()


def install_tools() -> None:
    """Put the CLI of the pinned version into `.changeover`, from where it can be had.

    The first of: the vendor's CLI on PATH in the pinned version, the vendor's download, a build from
    package registries. The last has the plugins with it. What was chosen once stays, since a stack stays with
    the plugins that made it.
    """
    ready = (BIN / "pulumi").exists() and _version(BIN / "pulumi") == f"v{pins.PULUMI}"
    if ready and not _built():
        return
    BIN.mkdir(parents=True, exist_ok=True)
    PULUMI_HOME.mkdir(exist_ok=True)
    source = None if ready else _vendor_on_path() or vendor.download()
    if source is None:
        if not ready:
            say("Pulumi: its vendor can't be reached, or has nothing for this machine")
            say("Pulumi: building CLI and plugins from package registries")
            say("Pulumi: the first time on a machine, this and the images after it take about 12 minutes")
        # at once where nothing in offline/ has changed
        tools = offline.tools.build(cluster=_has_cluster())
        offline.tools.install(tools, PULUMI_HOME)
        source = tools.bin
    for program in source.iterdir():
        if program.name.startswith("pulumi"):
            new = BIN / f"{program.name}.{os.getpid()}"  # there may be two who set this checkout up
            new.symlink_to(program)
            new.replace(BIN / program.name)


def install_plugins(stack: str) -> None:
    """Put the plugins that a stack's program asks for beside the vendor's CLI; where that was built they are
    there. Raises StepFailed."""
    # not at the top: it needs Pulumi
    from tools.host import is_on_aws, is_on_cluster

    if _built():
        if is_on_cluster(stack) and not _is_there("kubernetes"):
            install_tools()
        return
    names = ["command", "docker"]
    names += ["aws"] if is_on_aws(stack) else []
    names += ["kubernetes"] if is_on_cluster(stack) else []
    place_plugins(*names)


def place_plugins(*names: str) -> None:
    """Put the vendor's plugins of these names in their place, each in the version that is pinned. Where
    plugins are built they are there.

    Pulumi itself fetches none, unless it is told to. Raises StepFailed, also where no sum is known for this
    machine and the plugin is not there.
    """
    if _built():
        return
    plugins = {}
    for name in names:
        plugin = pins.PULUMI_PLUGINS[name]
        try:
            place = vendor.plugin(plugin)
        except vendor.Unreachable as error:
            if not _is_there(name):
                raise StepFailed(f"{error}. Run the command again") from None
            say(f"Pulumi: the plugin for {name} is installed but unverified: {error}")
            continue
        if place is not None:
            plugins[f"resource-{name}-v{plugin.version}"] = place
        else:
            unknown = f"no SHA-256 of Pulumi's plugin for {name} is known for {vendor.machine()}"
            if _is_there(name):
                say(f"Pulumi: the plugin for {name} is installed but unverified: {unknown}")
            elif os.environ.get(FETCHES_NONE) == "false":
                say(f"Pulumi: {unknown}; Pulumi itself fetches it")
            else:
                raise StepFailed(f"{unknown}, so it is not fetched. {how_to_fetch()}")
    offline.tools.install(offline.tools.Tools(bin=BIN, plugins=plugins), PULUMI_HOME)


def how_to_fetch() -> str:
    """How to get a plugin that can be compared with nothing, as a sentence."""
    if _built():
        return (
            "The plugins of this checkout are built, and none is fetched: use one whose CLI is the vendor's"
        )
    return (
        "To have Pulumi fetch it, compared with nothing, put this in front of the same command: "
        f"{FETCHES_NONE}=false"
    )


def _is_there(name: str) -> bool:
    """Whether this checkout has a plugin in the version that is pinned, from wherever it came."""
    folder = f"resource-{name}-v{pins.PULUMI_PLUGINS[name].version}"
    return (PULUMI_HOME / "plugins" / folder / f"pulumi-resource-{name}").is_file()


def _built() -> bool:
    """Whether the plugins of this checkout were built here and not downloaded."""
    return (PULUMI_HOME / "plugins" / f"resource-docker-v{pins.DOCKER_PLUGIN}" / "ORIGIN").exists()


def _has_cluster() -> bool:
    """Whether a stack of this checkout is on a cluster."""
    # not at the top: both need Pulumi
    from stacks.settings import stacks
    from tools.host import is_on_cluster

    return any(is_on_cluster(stack) for stack in stacks(ROOT))


def _version(program: Path) -> str:
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=False, env=environment)
    return done.stdout.strip()


def _vendor_on_path() -> Path | None:
    found = shutil.which("pulumi")
    if found is None or _version(Path(found)) != f"v{pins.PULUMI}":
        return None
    if Path(found).resolve().is_relative_to(cache_root().resolve()):
        return None  # another checkout's, which was built
    say(f"Pulumi: using {found}, which is on PATH, unverified")
    return Path(found).resolve().parent


def cli(stack: str | None = None) -> Path:
    """The CLI of this checkout with the plugins of a stack, set up first where a fresh clone has none.

    Raises StepFailed.
    """
    program = BIN / "pulumi"
    if not program.exists():
        set_up(stack)
    elif stack is not None:
        if PASSPHRASE.exists():  # one that is lost is missed by Pulumi, and another one would not be the same
            write()  # as this version has it
        install_plugins(stack)
    return program


def set_up(stack: str | None = None) -> None:
    """The CLI, the plugins of a stack, and its surroundings in `.changeover`. Raises StepFailed."""
    install_tools()
    write()
    if stack is not None:
        install_plugins(stack)


def write() -> None:
    """Write passphrase and `env.sh`, and have the virtual environment's `activate` read it."""
    STATE.mkdir(parents=True, exist_ok=True)
    if not PASSPHRASE.exists():
        # whole or not at all: an empty file is an empty passphrase, which protects nothing
        new = HOME / f"{PASSPHRASE.name}.{os.getpid()}"
        new.touch(mode=0o600)
        new.write_text(secrets.token_hex(24))
        new.replace(PASSPHRASE)
    here = variables()
    # looked up each time the file is read
    looked_up = {"PULUMI_BACKEND_URL": f'"${{{BACKEND}:-{backend_in(STATE)}}}"'}
    if not _built():
        looked_up[FETCHES_NONE] = f'"${{{FETCHES_NONE}:-true}}"'
    lines = [f"export {key}={looked_up.get(key, _quoted(value))}" for key, value in here.items()]
    wanted = "\n".join([*lines, f'export PATH={_quoted(str(BIN))}:"$PATH"', ""])
    if not ENV_FILE.exists() or ENV_FILE.read_text() != wanted:
        ENV_FILE.write_text(wanted)
    activate = Path(sys.prefix) / "bin" / "activate"
    line = f". {_quoted(str(ENV_FILE))}  # changeover: the CLI, plugins and state of this checkout\n"
    text = activate.read_text()
    if line not in text:
        activate.write_text(text.rstrip("\n") + "\n" + line)


def _quoted(text: str) -> str:
    """As a shell reads it in single quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    main_guard(lambda: set_up(os.environ.get("STACK") or "local"))
