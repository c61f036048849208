"""The stack's settings, read and checked in one place, for the program and for rendering alike."""

import contextlib
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import pulumi
import pulumi.runtime.config
import yaml

from components import fit, instance_types, model_names, vllm_flags
from components.api_keys import API_KEY
from components.aws.settings import LONGEST_STACK, AwsSettings
from components.catalogue import GIB, MIB, MODELS, Folder, Model, Quantization
from components.fit import CONTEXT_MINIMUM, HOLD_BUDGET_MAXIMUM
from components.gpu_memory import GPUS, KINDS, MONITOR_RAM, SERVICES_RAM, EngineKind, Gpu, Load, both
from components.instance_types import GpuKey, InstanceType
from components.kubernetes.settings import KubernetesSettings
from components.plan import REQUEST_SECONDS
from components.waiting import Bounds
from parity.probes import PROBES
from stacks import aws_settings, kubernetes_settings
from stacks.raw_settings import RawSettings, one_of
from switch.shared import TENANT

PROJECT = "changeover"

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's own in C, where it was built with that: 2 ms of each preview and not 20."""

RENDERED = "rendered"
"""The folder that has one for each stack: what follows from its settings, and what was measured of it."""

TARGETS = ("docker", "aws", "kubernetes")
"""Every target. Where the Docker host of the first two is: `stacks/targets.py`."""

CLIENTS = "-clients"
"""How the name of the network ends on which others ask a stack. Its own network is called as the stack is."""

MACHINE_KEYS = ("gpu", "gpuCount", "hostMemoryGiB", "port")
"""What the other targets must be told: on `aws` it follows from `instanceType`."""

SYSTEM_GIB = 2
"""RAM of an instance that nothing counts: kernel, Docker, gateway, switch. An estimate."""

PARALLEL_MAXIMUM = 256
"""vLLM's own default. More sequences take more of its memory than they bring."""

REQUEST_MIB_MAXIMUM = 64
"""Largest `maxRequestMiB`: the proxy has each body whole in its memory, also while its request waits."""


class SettingsError(Exception):
    """Settings that cannot work. The text names each key, its value, what is allowed and what to type."""


ORIGIN = re.compile(r"https?://[a-z0-9.-]+(?::[0-9]{1,5})?")
"""As a browser says it: https://www.rfc-editor.org/rfc/rfc6454#section-6.1."""


RECEIVER = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?")
"""A URL without a password in it: it is in the command of a container."""


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """The port of the monitor's page, and where alerts are sent: a URL, empty for nowhere."""

    port: int
    receiver: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The checked settings of one stack. Durations in seconds, sizes as their names say."""

    stack: str
    engine: EngineKind
    target: str
    model: Model
    name: str
    """The model's name at the endpoint."""
    aliases: tuple[str, ...]
    cors_origins: tuple[str, ...]
    context: int
    parallel: Mapping[EngineKind, int]
    """Concurrent requests by engine; of one that is missing the number follows from the memory."""
    gateway: Literal["tensorzero", "none"]
    cutover: Literal["auto", "overlap", "hold"]
    standby: bool
    images: Literal["public", "offline"]
    tenants: tuple[str, ...]
    port: int
    max_request_mib: int
    hold_budget: int
    gate_tokens_per_second: int
    bounds: Bounds
    gpu: Gpu | None
    """The target's GPUs, or None where there is only a CPU."""
    host_memory: int | None
    """Bytes of the Docker host's RAM that engines and services may use, or None where it is not known."""
    gpu_memory: int | None
    """Bytes of each GPU that engines may use, or None for all but a margin."""
    quantization: Mapping[EngineKind, Quantization]
    vllm_flags: tuple[str, ...]
    require_parity: bool
    accepted_differences: tuple[str, ...]
    report_first_token: int
    report_tokens_per_second: int
    """What each user must get of an engine for it to serve them, as `make report` counts; the first in
    seconds."""
    monitor: MonitorSettings | None
    """None where the stack has no monitor."""
    aws: AwsSettings | None
    """None on every other target."""
    kubernetes: KubernetesSettings | None
    """None on every other target. `gpu` and `host_memory` are each pod's then."""

    @property
    def load(self) -> Load:
        """What the engines are asked to hold, and on what."""
        return Load(
            model=self.model,
            context=self.context,
            parallel=self.parallel,
            gpu=self.gpu,
            host_memory=self.host_memory,
            quantization=self.quantization,
            gpu_memory=self.gpu_memory,
            together=self.cutover == "overlap",
            # on Kubernetes they are in other pods than the engines
            services=0 if self.kubernetes else SERVICES_RAM + (MONITOR_RAM if self.monitor else 0),
        )

    @property
    def kinds(self) -> tuple[EngineKind, ...]:
        """The engines that exist in the stack, the active one first."""
        other: EngineKind = "vllm" if self.engine == "ollama" else "ollama"
        return (self.engine, other) if self.standby else (self.engine,)


def declared(root: Path) -> dict[str, dict[str, Any]]:
    """The typed `config:` block of Pulumi.yaml by key: type, description, default."""
    project = yaml.load((root / "Pulumi.yaml").read_text(), Loader=LOADER)
    return cast(dict[str, dict[str, Any]], project["config"])


def from_values(stack: str, values: Mapping[str, Any], root: Path, *, deploying: bool = True) -> Settings:
    """Settings of `stack` from its values by key, namespace removed; defaults are those of Pulumi.yaml.

    Not `deploying`: what only a deployment needs, such as keys, may be missing. Raises SettingsError with
    every problem at once.
    """
    block = declared(root)
    problems: list[str] = []
    for key in sorted(set(values) - set(block)):
        guess = difflib.get_close_matches(key, block, n=1)
        hint = f"did you mean `{guess[0]}`? " if guess else f"the settings are {', '.join(sorted(block))}. "
        problems.append(f"{PROJECT}:{key}: there is no such setting; {hint}Run: pulumi config rm {key}")
    complete = {key: entry["default"] for key, entry in block.items() if "default" in entry} | dict(values)
    problems += [
        f"{PROJECT}:{key}: it is not set. {entry['description']} Run: pulumi config set {key} …"
        for key, entry in block.items()
        if key not in complete
    ]
    if problems:
        raise SettingsError(_text(stack, problems))

    types = {key: entry.get("type", "") for key, entry in block.items()}
    raw = RawSettings(PROJECT, complete, types, problems)
    engine = raw.choice("engine", ("ollama", "vllm"))
    target = raw.choice("target", TARGETS)
    model = MODELS[raw.choice("model", tuple(MODELS))]
    images = raw.choice("images", ("public", "offline"))
    if target == "aws" and (len(stack) > LONGEST_STACK or "." in stack):
        allowed = (
            f"the stack's name may have at most {LONGEST_STACK} letters, digits, '_' and '-', since AWS "
            "limits the names of roles and topics"
        )
        raw.problem("target", target, allowed, "pulumi stack rename …")
    if target == "docker" and stack.endswith(CLIENTS):
        allowed = (
            f"the stack's name must not end with {CLIENTS}, since a network of the stack "
            f"{stack.removesuffix(CLIENTS)} would have the same name"
        )
        raw.problem("target", target, allowed, "pulumi stack rename …")
    if images == "offline" and target == "aws":
        raw.problem(
            "images", images, f"with target {target} it must be public", "pulumi config set images public"
        )
    made_here = [name for name, each in MODELS.items() if isinstance(each.vllm[0], Folder)]
    if images == "offline" and model.name not in made_here:
        raw.problem(
            "model",
            model.name,
            f"with images offline {one_of(made_here)} (no model hub is reached)",
            "pulumi config set model tiny",
        )
    if target != "aws" and images == "public" and isinstance(model.vllm[0], Folder):
        raw.problem(
            "model",
            model.name,
            f"with images public {one_of([name for name in MODELS if name not in made_here])}",
            "pulumi config set model qwen-2.5-coder-0.5b",
        )
    tenants = raw.value("apiKeys") or {}
    for tenant, key in tenants.items():
        remove = f"pulumi config rm --path 'apiKeys[\"{tenant}\"]'"
        if isinstance(key, dict) and set(key) != {"secure"}:
            nested = f"pulumi config set --secret --path 'apiKeys[\"{tenant}.NAME\"]' KEY"
            raw.problem(
                "apiKeys",
                tenant,
                "a tenant has exactly one key; a name with a dot has to be quoted in brackets",
                nested,
            )
        if not TENANT.fullmatch(tenant):
            raw.problem("apiKeys", tenant, f"a tenant's name must match {TENANT.pattern}", remove)
        if not isinstance(key, dict) and not (isinstance(key, str) and API_KEY.fullmatch(key)):
            set_key = f"pulumi config set --secret --path apiKeys.{tenant} $(openssl rand -hex 24)"
            raw.problem(f"apiKeys.{tenant}", "[secret]", f"a key must match {API_KEY.pattern}", set_key)
    plain = [key for key in tenants.values() if isinstance(key, str)]
    if len(set(plain)) != len(plain):
        raw.problem(
            "apiKeys",
            "[secret]",
            "each tenant must have a key of its own",
            "pulumi config set --secret --path apiKeys.TENANT $(openssl rand -hex 24)",
        )
    quantization = _quantization(raw, model)
    aws, kubernetes, gpu, host_memory = None, None, None, None
    others = {"aws": aws_settings.KEYS, "kubernetes": kubernetes_settings.KEYS}
    for other, keys in others.items():
        for key in keys if other != target else ():
            if raw.value(key) != block[key]["default"]:  # Pulumi hands defaults over as if they had been set
                # not its value: it may be a secret
                raw.problem(key, "[set]", f"it applies only with target {other}", f"pulumi config rm {key}")
    if target == "kubernetes":
        kubernetes = kubernetes_settings.read(raw, stack)
        kubernetes_settings.check_served(raw, block)
        if deploying:
            kubernetes_settings.check_deployable(raw, tenants=len(tenants))
    if target == "aws":
        sizes = sum(model.source_of(kind, quantization.get(kind)).size for kind in KINDS)
        aws = aws_settings.read(raw, weights_bytes=sizes)
        if deploying:
            aws_settings.check_deployable(raw, aws, tenants=len(tenants))
        for key in MACHINE_KEYS:
            if raw.value(key) != block[key]["default"]:
                raw.problem(
                    key,
                    raw.value(key),
                    "it applies only with target docker or kubernetes",
                    f"pulumi config rm {key}",
                )
        instance = aws.instance
        gpu = replace(GPUS[instance.gpu], count=instance.gpus)
        host_memory = (instance.ram_gib - SYSTEM_GIB) * GIB
    else:
        gpu, host_memory = _machine(raw)
        if gpu and images == "offline":
            raw.problem(
                "gpu", raw.value("gpu"), "with images offline it must be none", "pulumi config set gpu none"
            )
    accepted = [str(name) for name in raw.value("acceptedDifferences") or []]
    for position, name in enumerate(accepted):
        if name not in PROBES:
            guess = difflib.get_close_matches(name, PROBES, n=1)
            allowed = f"no probe is called so, but one is called {guess[0]}" if guess else one_of(PROBES)
            remove = f"pulumi config rm --path 'acceptedDifferences[{position}]'"
            raw.problem("acceptedDifferences", name, allowed, remove)
    settings = Settings(
        stack=stack,
        engine=cast(EngineKind, engine),
        target=target,
        model=model,
        name=_name(raw, model),
        context=raw.number(
            "context",
            CONTEXT_MINIMUM,
            model.max_context,
            "tokens",
            f", the longest context that {model.name} supports",
        ),
        aliases=_aliases(raw),
        cors_origins=_origins(raw),
        parallel=_parallel(raw),
        gateway=cast(Any, raw.choice("gateway", ("tensorzero", "none"))),
        cutover=cast(Any, raw.choice("cutover", ("auto", "overlap", "hold"))),
        standby=bool(raw.value("standby")),
        images=cast(Any, images),
        tenants=tuple(sorted(tenants)),
        port=raw.number("port", 1, 65535, ""),
        max_request_mib=raw.number("maxRequestMiB", 1, REQUEST_MIB_MAXIMUM, "MiB"),
        hold_budget=raw.number("holdBudgetSeconds", 1, HOLD_BUDGET_MAXIMUM, "seconds"),
        bounds=Bounds(
            drain=raw.number(
                "drainSeconds",
                1,
                REQUEST_SECONDS,
                "seconds",
                ", the time-out after which the proxy ends any answer",
            ),
            load=raw.number("loadSeconds", 1, 3600, "seconds"),
            completions=raw.number("gateCompletions", 1, 100, "completions"),
        ),
        gpu=gpu,
        host_memory=host_memory,
        gpu_memory=_gpu_memory(raw, gpu),
        quantization=quantization,
        vllm_flags=_vllm_flags(raw, gpu),
        gate_tokens_per_second=raw.number("gateTokensPerSecond", 0, 1000, "tokens per second"),
        require_parity=bool(raw.value("requireParity")),
        accepted_differences=tuple(accepted),
        report_first_token=raw.number("reportFirstTokenSeconds", 1, 3600, "seconds"),
        report_tokens_per_second=raw.number("reportTokensPerSecond", 1, 1000, "tokens per second"),
        monitor=None if kubernetes else _monitor(raw),
        aws=aws,
        kubernetes=kubernetes,
    )
    if model.embeds:
        _check_embeds(raw, settings)
    if not problems:
        _check_fit(raw, settings)
    if problems:
        raise SettingsError(_text(stack, problems))
    return settings


def _name(raw: RawSettings, model: Model) -> str:
    """What clients call the model."""
    name = str(raw.value("name"))
    if name and not model_names.is_name(name):
        raw.problem(
            "name", name, f"it must be {model_names.NAME_RULE}", f"pulumi config set name {model.name}"
        )
        return model.name
    return name or model.name


def _parallel(raw: RawSettings) -> dict[EngineKind, int]:
    """How many concurrent requests each engine is to work on, where the settings say it."""
    value = raw.value("parallel")
    if isinstance(value, str) and value.startswith("{"):  # as Pulumi hands an object over
        with contextlib.suppress(ValueError):  # what is no JSON is no number either
            value = json.loads(value)
    if not isinstance(value, dict):
        count = _count(raw, "parallel", value)
        return both(count) if count else {}
    chosen: dict[EngineKind, int] = {}
    for name, each in value.items():
        kind = next((kind for kind in KINDS if kind == name), None)
        if kind is None:
            allowed = f"the keys of parallel must be {' or '.join(KINDS)}"
            raw.problem(f"parallel.{name}", each, allowed, f"pulumi config rm --path parallel.{name}")
        elif count := _count(raw, f"parallel.{kind}", each):
            chosen[kind] = count
    return chosen


def _count(raw: RawSettings, key: str, value: object) -> int | None:
    """A number of concurrent requests, or None for `auto`."""
    text = str(value)
    if text == "auto":
        return None
    if text.isdecimal() and 1 <= int(text) <= PARALLEL_MAXIMUM:
        return int(text)
    allowed = f"it must be auto, or 1 to {PARALLEL_MAXIMUM} requests"
    if key == "parallel":
        raw.problem(
            key,
            value,
            f"{allowed}, or an object with one of these for each engine",
            "pulumi config set parallel auto",
        )
    else:
        raw.problem(key, value, allowed, f"pulumi config set --path {key} auto")
    return None


def _gpu_memory(raw: RawSettings, gpu: Gpu | None) -> int | None:
    """What engines may use of each GPU, in bytes."""
    most = gpu.usable // MIB if gpu else 0
    words = (
        f", the usable memory of {gpu.words}; 0 means all of it but a margin"
        if gpu
        else ", since no gpu is set"
    )
    return raw.number("gpuMemoryMiB", 0, most, "MiB", words) * MIB or None


def _aliases(raw: RawSettings) -> tuple[str, ...]:
    """Further names of the model."""
    found = [str(each) for each in raw.value("aliases") or []]
    for position, each in enumerate(found):
        if not model_names.is_alias(each):
            remove = f"pulumi config rm --path 'aliases[{position}]'"
            raw.problem("aliases", each, f"it must be {model_names.ALIAS_RULE}", remove)
    return tuple(dict.fromkeys(found))


def _origins(raw: RawSettings) -> tuple[str, ...]:
    """Sites as a browser names them: scheme, host and port, and nothing after that."""
    found = [str(each) for each in raw.value("corsOrigins") or []]
    for position, each in enumerate(found):
        if each != "*" and not ORIGIN.fullmatch(each):
            allowed = (
                "it must be *, or http:// or https:// with a host in lower case, optionally a port, and no "
                "path"
            )
            raw.problem("corsOrigins", each, allowed, f"pulumi config rm --path 'corsOrigins[{position}]'")
    return tuple(dict.fromkeys(found))


def _monitor(raw: RawSettings) -> MonitorSettings | None:
    """The monitor's settings, where the stack has one."""
    receiver = str(raw.value("alertReceiver"))
    if receiver and not RECEIVER.fullmatch(receiver):
        allowed = "it must be http:// or https:// with a host, optionally a port and a path, and no password"
        raw.problem("alertReceiver", "[set]", allowed, "pulumi config rm alertReceiver")
    if not raw.value("monitor"):
        if receiver:
            allowed = "it needs monitor true, since only the monitor raises alerts"
            raw.problem("alertReceiver", receiver, allowed, "pulumi config set monitor true")
        return None
    port = raw.number("monitorPort", 1024, 65535, "")
    if port == raw.value("port"):
        free = f"it must differ from port, which is {port}"
        raw.problem(
            "monitorPort", port, free, f"pulumi config set monitorPort {8428 if port != 8428 else 8429}"
        )
    return MonitorSettings(port=port, receiver=receiver)


def _machine(raw: RawSettings) -> tuple[Gpu | None, int | None]:
    """The GPUs and the RAM of the Docker host, in bytes, as the settings say."""
    key = raw.choice("gpu", ("none", *GPUS))
    count = raw.number("gpuCount", 1, max(fit.COUNTS), "GPUs")
    if key == "none" and count != 1:
        raw.problem("gpuCount", count, "without a gpu it must be 1", "pulumi config set gpuCount 1")
    host = raw.number("hostMemoryGiB", 0, 65536, "GiB")
    return None if key == "none" else replace(GPUS[key], count=count), host * GIB or None


def _quantization(raw: RawSettings, model: Model) -> dict[EngineKind, Quantization]:
    """The chosen quantizations by engine."""
    chosen: dict[EngineKind, Quantization] = {}
    for name, value in (raw.value("quantization") or {}).items():
        kind = next((kind for kind in KINDS if kind == name), None)
        key = f"quantization.{name}"
        if kind is None:
            allowed = f"the keys of quantization must be {' or '.join(KINDS)}"
            raw.problem(key, value, allowed, f"pulumi config rm --path {key}")
            continue
        offered = [source.quantization for source in model.sources(kind)]
        if value in offered:
            chosen[kind] = value
            continue
        allowed = f"for {model.name} {one_of(offered)}"
        if kind == "vllm" and str(value).lower() in vllm_flags.PLUGIN_ONLY:
            allowed = f"vLLM's core no longer has {value}; {allowed}"
        raw.problem(key, value, allowed, f"pulumi config set --path {key} {offered[0]}")
    return chosen


def _vllm_flags(raw: RawSettings, gpu: Gpu | None) -> tuple[str, ...]:
    flags = tuple(str(flag) for flag in raw.value("vllmFlags") or ())
    for each in vllm_flags.refusals(flags, gpu):
        use = "pulumi config rm vllmFlags, and then set the other flags again"
        if each.setting == "quantization":
            use = "pulumi config set --path quantization.vllm …"
        elif each.setting:
            use = f"pulumi config set {each.setting} …"
        raw.problem("vllmFlags", each.item, each.why, use)
    return flags


def _check_embeds(raw: RawSettings, settings: Settings) -> None:
    """Adds the settings that make no sense for a model that cannot chat."""
    why = f"{settings.model.name} only computes embeddings and cannot chat"
    if settings.gateway == "tensorzero":
        allowed = f"{why}, and the gateway handles nothing but chats: it must be none"
        raw.problem("gateway", settings.gateway, allowed, "pulumi config set gateway none")
    if settings.require_parity:
        allowed = f"{why}, and `make parity` compares chats: it must be false"
        raw.problem("requireParity", True, allowed, "pulumi config set requireParity false")
    if (requests := settings.parallel.get("ollama", 1)) != 1:
        allowed = (
            f"ollama computes embeddings for one request at a time, whatever is set ({why}): it must be auto"
        )
        raw.problem(
            "parallel", requests, f"{allowed}, or a number for vllm", "pulumi config set parallel auto"
        )


def _check_fit(raw: RawSettings, settings: Settings) -> None:
    """Adds engines that can never start, and waits that are longer than the proxy allows."""
    load = settings.load
    found = [fit.refused_count(load)]
    if found == [None]:
        found += [fit.refused_engine(kind, load) for kind in settings.kinds]
    if settings.cutover == "overlap" and not any(found):
        found.append(fit.refused_overlap(load))
    found.append(fit.refused_budget(settings.hold_budget, settings.bounds))
    for each in found:
        if each and settings.aws:
            each = _for_instances(each, settings.aws.instance, fit.counts(load))
        if each:
            command = each.choices[0].command if each.choices else "pulumi config set model …"
            raw.problem(each.key, each.value, each.words, command)


def _for_instances(
    refusal: fit.UnworkableSetting, now: InstanceType, counts: Sequence[int]
) -> fit.UnworkableSetting:
    """The refusal with its choices of GPU, count and RAM as types of instances; `counts` are the numbers of
    GPUs that can share the model."""
    choices = list[fit.Choice]()
    for each in refusal.choices:
        if each.key in ("gpu", "gpuCount", "hostMemoryGiB"):
            other = instance_types.cheapest(
                cast(GpuKey, each.value if each.key == "gpu" else now.gpu),
                gpus=int(each.value) if each.key == "gpuCount" else now.gpus,
                ram_gib=int(each.value) + SYSTEM_GIB if each.key == "hostMemoryGiB" else 0,
            )
            if other is None or other.gpus not in counts:
                continue
            each = fit.Choice("instanceType", other.name, each.words)
        if each not in choices:
            choices.append(each)
    if refusal.key in ("gpuCount", "hostMemoryGiB"):
        return replace(refusal, key="instanceType", value=now.name, choices=choices)
    return replace(refusal, choices=choices)


def _text(stack: str, problems: list[str]) -> str:
    return "\n  ".join([f"the settings of stack `{stack}` cannot work; nothing was changed.", *problems])


def config_in(file: Path) -> dict[str, Any]:
    """What the settings file of a stack says, by key with its namespace. Raises FileNotFoundError, and
    SettingsError where it can't be read: in the middle of a merge, say."""
    try:
        said = yaml.safe_load(file.read_text()) or {}
        return {str(key): value for key, value in (said.get("config") or {}).items()}
    except (AttributeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{file.name} is no file of settings; nothing was changed. {error}") from None


def from_files(stack: str, root: Path) -> Settings:
    """Settings of `stack` from Pulumi.yaml and Pulumi.<stack>.yaml, without Pulumi and without secrets."""
    file = root / f"Pulumi.{stack}.yaml"
    try:
        config = config_in(file)
    except FileNotFoundError:
        raise SettingsError(f"there is no stack `{stack}`: {file.name} does not exist") from None
    prefix = f"{PROJECT}:"
    values = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
    return from_values(stack, values, root, deploying=False)


def from_program(root: Path) -> Settings:
    """Settings of the stack that Pulumi is running. Raises SettingsError."""
    # pulumi.Config reads keys one by one; the whole bag is needed to find misspelt ones.
    bag = pulumi.runtime.config.CONFIG.get() or pulumi.runtime.config.get_config_env()
    prefix = f"{PROJECT}:"
    values = {key.removeprefix(prefix): value for key, value in bag.items() if key.startswith(prefix)}
    return from_values(pulumi.get_stack(), values, root)


def api_keys() -> pulumi.Output[dict[str, str]]:
    """Tenant → API key of the running stack, as a secret."""
    return pulumi.Config(PROJECT).get_secret_object("apiKeys") or pulumi.Output.secret({})


def stacks(root: Path) -> list[str]:
    """The names of all stacks that have a settings file."""
    return sorted(file.stem.removeprefix("Pulumi.") for file in root.glob("Pulumi.*.yaml"))


def host_key() -> pulumi.Output[str]:
    """The private SSH key of the running stack's host, as a secret."""
    keys = pulumi.Config(PROJECT).require_secret_object("sshKeys")
    return keys.apply(lambda found: str(found["host"]))


def client_key() -> str:
    """The deployer's private SSH key, in plain text: `ssh` needs it in a file."""
    return str(pulumi.Config(PROJECT).require_object("sshKeys")["client"])
