"""`make up`: from a fresh clone to an endpoint that answers. A second run changes nothing."""

import argparse
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import offline.clients
import offline.images
from common import ROOT, StepFailed, cache_root, main_guard, say, write_whole
from components import pins
from components.catalogue import MODELS, Folder
from components.labels import Labels
from stacks.blueprint import blueprint_of
from stacks.owner import gone, missing
from stacks.settings import PROJECT, SettingsError, config_in, from_files
from tools import debian, docker_engine, environment, owner, port, render
from tools.environment import pulumi
from tools.host import is_on_aws, is_on_cluster, look, on_aws, ssh_config
from tools.keys import keys

STACK = os.environ.get("STACK") or "local"
CONFIG = ROOT / f"Pulumi.{STACK}.yaml"
PULL_SECONDS = 60
PUBLIC_MODEL = "qwen-2.5-coder-0.5b"


def choose_images(config: dict[str, object]) -> str:
    """`public` or `offline`: forced by `IMAGES`, chosen before, or found out by pulling one public image.

    `config` is the stack's, as in its file.
    """
    if forced := os.environ.get("IMAGES"):
        if forced not in ("public", "offline"):
            raise StepFailed(
                f"IMAGES={forced} cannot work; it must be one of public, offline. Run: IMAGES=public make up"
            )
        say(f"Images: {forced}, as set by IMAGES")
        return forced
    if before := config.get("changeover:images"):
        say(f"Images: {before}, as set in Pulumi.{STACK}.yaml")
        return str(before)
    image = pins.EDGE.public
    say(f"Images: trying whether a public one can be pulled, {image} …")
    try:
        done = subprocess.run(
            ["docker", "pull", "--quiet", image],
            capture_output=True,
            text=True,
            timeout=PULL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"no answer in {PULL_SECONDS} s"
    else:
        if done.returncode == 0:
            say("Images: public, since it could be pulled")
            return "public"
        why = (done.stderr.strip().splitlines() or ["docker gave no reason"])[-1]
    say(f"Images: offline, since it can't be pulled ({why})")
    return "offline"


def ensure_stack() -> None:
    """Create the stack where there is none, and select it."""
    names = [each["name"] for each in json.loads(pulumi("stack", "ls", "--json", capture=True))]
    if STACK in names:
        pulumi("stack", "select", STACK, capture=True)
        return
    text = CONFIG.read_text()
    try:
        pulumi("stack", "init", STACK, capture=True)  # a salt of this checkout's own passphrase is kept
    except StepFailed:
        if "encryptionsalt:" not in text:
            raise
        if "secure:" in text:
            raise StepFailed(
                f"{CONFIG.name} has secrets that another checkout encrypted. Put its passphrase into "
                f"{environment.PASSPHRASE}, or remove the `secure:` values and the line `encryptionsalt`"
            ) from None
        lines = text.splitlines(keepends=True)
        write_whole(CONFIG, "".join(line for line in lines if not line.startswith("encryptionsalt:")))
        pulumi("stack", "init", STACK, capture=True)


def write_image_choice() -> None:
    """Write the image source, and with `offline` the model that needs no hub, into the stack's settings."""
    config = config_in(CONFIG)
    images = choose_images(config)
    wanted = {"images": images}
    if images == "offline":
        wanted["model"] = "tiny"
    elif config.get("changeover:model") == "tiny":
        wanted["model"] = PUBLIC_MODEL
    for key, value in wanted.items():
        if config.get(f"changeover:{key}") != value:  # a choice is kept: the next `make up` asks nothing
            say(f"Settings: {key}: {value} → {CONFIG.name}")
            pulumi("config", "set", key, value, "--stack", STACK, capture=True)
    try:
        render.write(ROOT, STACK)
    except SettingsError as error:
        raise StepFailed(str(error)) from None


def ask(endpoint: str, model: str, key: str, *, embeds: bool = False) -> str:
    """One completion through the endpoint, or one embedding in words; `key` is empty where none is needed.
    Raises StepFailed."""
    body: dict[str, object] = {"model": model, "input": "Hello."}
    if not embeds:
        body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
    request = urllib.request.Request(
        f"{endpoint}/{'embeddings' if embeds else 'chat/completions'}",
        data=json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {key}"} if key else {"X-Tenant-ID": "make-up"}),
        },
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no way to loopback
    try:
        with direct.open(request, timeout=300) as answer:
            said = json.load(answer)
            if embeds:
                return f"{len(said['data'][0]['embedding'])} numbers for one text"
            return str(said["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        raise StepFailed(f"the endpoint answered {error.code}: {error.read().decode()[:500]}") from None
    except OSError as error:
        raise StepFailed(f"the endpoint does not answer: {error}") from None


def place_model(built: Path) -> None:
    """Give the built folder of the model `tiny` the name by which the weights step finds it."""
    source = MODELS["tiny"].vllm[0]
    assert isinstance(source, Folder)
    link = cache_root() / "models" / source.place
    if not link.is_symlink() or link.readlink() != built:
        link.unlink(missing_ok=True)
        link.symlink_to(built)


def prepare() -> None:
    """Everything short of deploying: Docker, CLI, plugins, stack, images and the offline model.

    On AWS: CLI, plugins, stack and SSH keys.
    """
    if not CONFIG.exists():
        raise StepFailed(
            f"there is no {CONFIG.name}. Create it with changeover:engine, changeover:target and "
            "changeover:model, as in Pulumi.local.yaml"
        )
    if is_on_cluster(STACK):
        raise StepFailed(
            f"this sets a Docker host up, and `{STACK}` is on a cluster that is there. "
            f"Run: make cli STACK={STACK} && pulumi up --stack {STACK}"
        )
    on_aws = is_on_aws(STACK)
    if not on_aws:
        docker_engine.ensure()
        owner.look(STACK)  # before anything is fetched or built
    environment.set_up(STACK)
    ensure_stack()
    if on_aws:
        keys(STACK)
        return
    write_image_choice()
    config = config_in(CONFIG)
    if config["changeover:images"] == "offline":
        build_offline(monitor=config.get("changeover:monitor") in (True, "true"))


def build_offline(*, monitor: bool) -> None:
    """The offline images, those of a monitor where there is one, and the model that both engines serve
    without a hub."""
    debian.ensure(debian.BUILD_PROGRAMS, environment.HOME / "apt.log")
    beside = () if monitor else [pin.name for pin in pins.MONITOR]
    offline.images.build([name for name in offline.images.RECIPES if name not in beside])
    place_model(offline.images.tiny_model())


def prepare_tests(*, cluster: bool) -> None:
    """What the tests on the real engines need, and those on a cluster. They have stacks of their own, always
    with offline images."""
    docker_engine.ensure()
    environment.set_up()
    environment.place_plugins("command", "docker", *(["kubernetes"] if cluster else []))
    build_offline(monitor=True)
    offline.tools.build_docker_engine()
    offline.tools.build_one(offline.tools.VMALERT_TOOL, offline.tools.go_version())
    offline.clients.install()
    if cluster:
        say("Kubernetes and its plugin: the first time on a machine, they take about half an hour")
        offline.tools.build_cluster()
        offline.tools.build(cluster=True)


def is_something_missing() -> bool:
    """Whether the host lacks something that the state has made: it is said, and a refresh makes it again.

    Raises StepFailed where the stack on the host is another state's.
    """
    settings = on_aws(STACK)
    if settings is not None:
        there = look(STACK, settings, owner.state_of(STACK).instance)
        if there.state != "running" or not ssh_config(STACK).exists():
            return False  # the program looks, once it can
    try:
        state, host = owner.look(STACK)
    except StepFailed:
        if settings is None:
            raise
        return False  # no SSH gets there: the program says so, and what brings it back
    lost = missing(state, host)
    if lost:
        weights = [spec.weights for spec in blueprint_of(from_files(STACK, ROOT)).specs]
        say(f"{gone(lost, weights, Labels(project=PROJECT, stack=STACK))}. It is created again.")
    return bool(lost)


def up() -> None:
    """Set everything up, deploy the stack `local`, and show that it answers."""
    started = time.monotonic()
    prepare()
    refresh = ["--refresh"] if is_something_missing() else []
    say(f"Deploying the stack `{STACK}` …")
    pulumi("up", "--yes", "--skip-preview", *refresh, "--stack", STACK)
    port.cure(STACK)
    outputs = json.loads(pulumi("stack", "output", "--json", "--stack", STACK, capture=True))
    endpoint, model, engine = outputs["endpoint"], outputs["model"], outputs["engine"]
    config = json.loads(pulumi("config", "--json", "--show-secrets", "--stack", STACK, capture=True))
    keys = config.get("changeover:apiKeys", {}).get("objectValue", {})
    embeds = from_files(STACK, ROOT).model.embeds
    say(f"It answers: {ask(endpoint, model, next(iter(keys.values()), ''), embeds=embeds)!r}")
    key = " -H 'Authorization: Bearer YOUR-KEY'" if keys else ""
    path = "embeddings" if embeds else "chat/completions"
    text = {"input": "Hello"} if embeds else {"messages": [{"role": "user", "content": "Hello"}]}
    other = "vllm" if engine == "ollama" else "ollama"
    say(f"""
Ready after {time.monotonic() - started:.0f} s. {engine} serves {model} at {endpoint}

Try it:
  curl {endpoint}/{path} -H 'Content-Type: application/json'{key} \\
    -d '{json.dumps({"model": model, **text})}'

Change the engine, and back the same way with the old value:
  source .venv/bin/activate
  pulumi config set engine {other} && pulumi up""")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", action="store_true", help="set up what the tests need; deploy nothing")
    parser.add_argument("--cluster", action="store_true", help="with --tests: also those on a cluster")
    options = parser.parse_args()
    main_guard(partial(prepare_tests, cluster=options.cluster) if options.tests else up)
