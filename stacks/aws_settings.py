"""The settings that only the target `aws` has, and their checks before AWS is asked anything."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from itertools import combinations
from typing import Any, Protocol

from components.instance_types import INSTANCE_TYPES, ROOT_GIB, InstanceType, cost
from components.ssh_config import Access

KEYS = (
    "zone",
    "instanceType",
    "allowedCidrs",
    "access",
    "adminCidrs",
    "domain",
    "hostedZone",
    "ami",
    "amiRefresh",
    "dataVolumeGiB",
    "spot",
    "protect",
    "idleStopMinutes",
    "alarmEmail",
    "monthlyBudget",
    "logDays",
    "sshKeys",
    "sshPublicKeys",
)

ZONE = re.compile(r"[a-z]{2}(?:-gov)?-[a-z]+-[0-9][a-f]")
DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{68}")
LOG_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731)
"""What CloudWatch Logs accepts as a retention."""
IMAGES_GIB = 60
"""Images of both engines on the data volume, and room to work."""


class Raw(Protocol):
    """What the reader of settings offers: see `stacks/settings.py`."""

    def value(self, key: str) -> Any: ...
    def choice(self, key: str, allowed: tuple[str, ...]) -> str: ...
    def number(self, key: str, low: int, high: int, unit: str, why: str = "") -> int: ...
    def problem(self, key: str, value: object, allowed: str, command: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class AwsSettings:
    """The checked settings of a stack on AWS. Sizes in GiB, `budget` in US dollars a month."""

    zone: str
    instance: InstanceType
    allowed: tuple[str, ...]
    access: Access
    admins: tuple[str, ...]
    domain: str
    hosted_zone: str
    ami: str
    ami_refresh: str
    data_gib: int
    spot: bool
    protect: bool
    idle_minutes: int
    email: str
    budget: int
    log_days: int
    public_keys: Mapping[str, str]

    @property
    def region(self) -> str:
        return self.zone[:-1]

    @property
    def cost(self) -> str:
        """What the stack costs an hour and a month, in words."""
        volumes = ROOT_GIB + self.data_gib
        return cost(self.instance, volumes_gib=volumes, region=self.region, spot=self.spot)


def _networks(raw: Raw, key: str) -> tuple[str, ...]:
    found: list[IPv4Network] = []
    for text in raw.value(key) or []:
        try:
            found.append(IPv4Network(text))
        except (AddressValueError, NetmaskValueError, ValueError):
            raw.problem(key, text, "an IPv4 network, such as 203.0.113.0/24", _set(key))
    for one, other in combinations(found, 2):
        if one.overlaps(other):
            raw.problem(key, f"{one}, {other}", "networks that do not overlap", _set(key))
    return tuple(str(network) for network in found)


def _set(key: str) -> str:
    return f"pulumi config set --path '{key}[0]' 203.0.113.0/24"


def read(raw: Raw, *, weights_bytes: int, tenants: int) -> AwsSettings:
    """The AWS settings; every problem is noted with `raw`. `weights_bytes` must fit on the data volume."""
    zone = str(raw.value("zone"))
    if not ZONE.fullmatch(zone):
        raw.problem("zone", zone, "an availability zone", "pulumi config set zone us-east-1a")
    name = raw.choice("instanceType", tuple(INSTANCE_TYPES))
    allowed, admins = _networks(raw, "allowedCidrs"), _networks(raw, "adminCidrs")
    if not allowed:
        raw.problem(
            "allowedCidrs", [], "one network or more, or nobody can use the endpoint", _set("allowedCidrs")
        )
    access: Access = "direct" if raw.choice("access", ("ssm", "direct")) == "direct" else "ssm"
    if access == "direct" and not admins:
        raw.problem("adminCidrs", [], "with access direct: one network or more", _set("adminCidrs"))
    if access == "ssm" and admins:
        raw.problem("adminCidrs", list(admins), "only with access direct", "pulumi config rm adminCidrs")
    if "0.0.0.0/0" in admins:
        raw.problem("adminCidrs", "0.0.0.0/0", "never everybody: name your networks", _set("adminCidrs"))
    domain, hosted_zone = str(raw.value("domain")), str(raw.value("hostedZone")).removesuffix(".")
    if domain and not DOMAIN.fullmatch(domain):
        raw.problem("domain", domain, "a name such as llm.example.com", "pulumi config set domain NAME")
    if hosted_zone and domain != hosted_zone and not domain.endswith(f".{hosted_zone}"):
        raw.problem(
            "domain", domain, f"a name in {hosted_zone}", f"pulumi config set domain llm.{hosted_zone}"
        )
    ami = str(raw.value("ami"))
    if ami and not re.fullmatch(r"ami-[0-9a-f]{8,17}", ami):
        raw.problem("ami", ami, "an image's id, ami-…", "pulumi config rm ami")
    refresh = str(raw.value("amiRefresh"))
    if not re.fullmatch(r"[A-Za-z0-9.-]*", refresh):
        raw.problem(
            "amiRefresh", refresh, "letters, digits, '.' and '-'", "pulumi config set amiRefresh 2027-01-31"
        )
    if ami and refresh:
        raw.problem("amiRefresh", refresh, "not with ami", "pulumi config rm amiRefresh")
    least = IMAGES_GIB + -(-weights_bytes // 1024**3)
    email = str(raw.value("alarmEmail"))
    if email and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
        raw.problem("alarmEmail", email, "an e-mail address", "pulumi config set alarmEmail NAME@HOST")
    budget = raw.number("monthlyBudget", 0, 1_000_000, "US dollars")
    if budget and not email:
        raw.problem("monthlyBudget", budget, "only with alarmEmail", "pulumi config set alarmEmail NAME@HOST")
    log_days = int(raw.value("logDays"))
    if log_days not in LOG_DAYS:
        days = ", ".join(map(str, LOG_DAYS))
        raw.problem("logDays", log_days, f"allowed: {days}", "pulumi config set logDays 90")
    public_keys = dict(raw.value("sshPublicKeys") or {})
    for who in ("host", "client"):
        if not PUBLIC_KEY.fullmatch(str(public_keys.get(who, ""))):
            raw.problem("sshPublicKeys", who, "an ssh-ed25519 key of host and of client", "make keys STACK=…")
        if who not in (raw.value("sshKeys") or {}):
            raw.problem(
                "sshKeys", who, "a private key of host and of client, as secrets", "make keys STACK=…"
            )
    if not tenants:
        key = "pulumi config set --secret --path apiKeys.TENANT $(openssl rand -hex 24)"
        raw.problem("apiKeys", {}, "with target aws: one key or more, the endpoint is never open", key)
    idle = raw.number("idleStopMinutes", 0, 1440, "minutes")
    if idle and idle % 5:
        raw.problem(
            "idleStopMinutes", idle, "a multiple of 5", f"pulumi config set idleStopMinutes {idle - idle % 5}"
        )
    return AwsSettings(
        zone=zone,
        instance=INSTANCE_TYPES[name],
        allowed=allowed,
        access=access,
        admins=admins,
        domain=domain,
        hosted_zone=hosted_zone,
        ami=ami,
        ami_refresh=refresh,
        data_gib=raw.number(
            "dataVolumeGiB", least, 16384, "GiB", ", for the weights and both engines' images"
        ),
        spot=bool(raw.value("spot")),
        protect=bool(raw.value("protect")),
        idle_minutes=idle,
        email=email,
        budget=budget,
        log_days=log_days,
        public_keys=public_keys,
    )
