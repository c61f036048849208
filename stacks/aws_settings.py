"""The settings that only the target `aws` has, and their checks before AWS is asked anything."""

import re
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from itertools import combinations

from components.aws.settings import EVERYBODY, AwsSettings
from components.instance_types import GPU_REGIONS, INSTANCE_TYPES, REGIONS_DATE
from components.ssh_config import Access
from stacks.raw_settings import RawSettings, one_of

KEYS = (
    "zone",
    "instanceType",
    "allowedCidrs",
    "access",
    "adminCidrs",
    "publicHttp",
    "vpcId",
    "subnetId",
    "domain",
    "hostedZone",
    "ami",
    "amiRefresh",
    "dataVolumeGiB",
    "dataSnapshot",
    "spot",
    "protect",
    "idleStopMinutes",
    "alarmEmail",
    "monthlyBudget",
    "logDays",
    "sshKeys",
    "sshPublicKeys",
)

ZONE = re.compile(r"[a-z]{2}-[a-z]+-[0-9][a-f]")
DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{68}")
LOG_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731)
"""What CloudWatch Logs accepts as a retention."""
EXAMPLES = tuple(IPv4Network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"))
"""Networks that stand in examples (RFC 5737): nobody's."""
IDLE_MINUTES = 30
"""The first `up` downloads images and weights while the GPU does nothing; that is not idle."""
IMAGES_GIB = 60
"""Images of both engines on the data volume, twice: those of another version come while the way back needs
the old ones. Unpacked vLLM's has up to 25 GB (vllm-project/vllm#17163), Ollama's 3.3 GB (ollama/ollama#9982),
and all others together less than 1 GB (estimate); twice that is 55 GiB. No image was pulled here."""


def _networks(raw: RawSettings, key: str) -> tuple[str, ...]:
    found: list[IPv4Network] = []
    for text in raw.value(key) or []:
        try:
            found.append(IPv4Network(text))
        except (AddressValueError, NetmaskValueError, ValueError):
            raw.problem(key, text, "it must be an IPv4 network, such as 203.0.113.0/24", _set(key))
    for one, other in combinations(found, 2):
        if one.overlaps(other):
            raw.problem(key, f"{one}, {other}", "networks must not overlap", _set(key))
    return tuple(str(network) for network in found)


def _set(key: str) -> str:
    return f"pulumi config set --path '{key}[0]' $(curl -s https://checkip.amazonaws.com)/32"


def check_deployable(raw: RawSettings, settings: AwsSettings, *, tenants: int) -> None:
    """Notes what a deployment needs and a review does not: keys, and networks of one's own."""
    for key, networks in (("allowedCidrs", settings.allowed), ("adminCidrs", settings.admins)):
        for network in networks:
            if IPv4Network(network).prefixlen and any(IPv4Network(network).overlaps(e) for e in EXAMPLES):
                raw.problem(
                    key, network, "name your own networks; this one is reserved for examples", _set(key)
                )
    for who in ("host", "client"):
        if not PUBLIC_KEY.fullmatch(str(settings.public_keys.get(who, ""))):
            raw.problem(
                "sshPublicKeys",
                who,
                "it needs one ssh-ed25519 key for host and one for client",
                "make keys STACK=…",
            )
        if who not in (raw.value("sshKeys") or {}):
            raw.problem(
                "sshKeys",
                who,
                "it needs a private key for host and one for client, as secrets",
                "make keys STACK=…",
            )
    if not tenants:
        key = "pulumi config set --secret --path apiKeys.TENANT $(openssl rand -hex 24)"
        raw.problem(
            "apiKeys",
            {},
            "with target aws at least one key is needed, since the endpoint is never open to everybody",
            key,
        )


def read(raw: RawSettings, *, weights_bytes: int) -> AwsSettings:
    """The AWS settings; every problem is noted with `raw`.

    `weights_bytes` are those of both engines. They must fit on the data volume twice: another model's are
    fetched while the way back needs the old ones.
    """
    zone = str(raw.value("zone"))
    if not ZONE.fullmatch(zone):
        raw.problem(
            "zone", zone, "it must be the name of an availability zone", "pulumi config set zone us-east-1a"
        )
    instance = INSTANCE_TYPES[raw.choice("instanceType", tuple(INSTANCE_TYPES))]
    region, offered = zone[:-1], GPU_REGIONS[instance.family]
    if ZONE.fullmatch(zone) and region not in offered:
        raw.problem(
            "zone",
            zone,
            f"{instance.family} is offered in {', '.join(sorted(offered))} (as of {REGIONS_DATE}; if that "
            "is out of date, add the region to components/instance_types.py)",
            "pulumi config set zone us-east-1a",
        )
    allowed, admins = _networks(raw, "allowedCidrs"), _networks(raw, "adminCidrs")
    if not allowed:
        raw.problem(
            "allowedCidrs",
            [],
            "at least one network is needed, or nobody can use the endpoint",
            _set("allowedCidrs"),
        )
    access: Access = "direct" if raw.choice("access", ("ssm", "direct")) == "direct" else "ssm"
    if access == "direct" and not admins:
        raw.problem("adminCidrs", [], "with access direct at least one network is needed", _set("adminCidrs"))
    if access == "ssm" and admins:
        raw.problem(
            "adminCidrs", list(admins), "it applies only with access direct", "pulumi config rm adminCidrs"
        )
    if EVERYBODY in admins:
        raw.problem(
            "adminCidrs", EVERYBODY, "SSH is never open to everybody: name your networks", _set("adminCidrs")
        )
    domain, hosted_zone = str(raw.value("domain")), str(raw.value("hostedZone")).removesuffix(".")
    if domain and not DOMAIN.fullmatch(domain):
        raw.problem(
            "domain", domain, "it must be a name such as llm.example.com", "pulumi config set domain NAME"
        )
    if hosted_zone and domain != hosted_zone and not domain.endswith(f".{hosted_zone}"):
        raw.problem(
            "domain",
            domain,
            f"it must be a name in {hosted_zone}",
            f"pulumi config set domain llm.{hosted_zone}",
        )
    public_http = bool(raw.value("publicHttp"))
    if domain and EVERYBODY not in allowed and not public_http:
        raw.problem(
            "publicHttp",
            False,
            "with a domain it must be true, unless allowedCidrs is 0.0.0.0/0: ACME challenges arrive on "
            "port 80 from anywhere (nothing but challenges and redirects is answered there)",
            "pulumi config set publicHttp true",
        )
    if public_http and not domain:
        raw.problem("publicHttp", True, "it applies only with a domain", "pulumi config rm publicHttp")
    network = {key: str(raw.value(key)) for key in ("vpcId", "subnetId")}
    for key, other, prefix in (("vpcId", "subnetId", "vpc"), ("subnetId", "vpcId", "subnet")):
        if network[key] and not re.fullmatch(rf"{prefix}-[0-9a-f]{{8,17}}", network[key]):
            raw.problem(key, network[key], f"it must be an id, {prefix}-…", f"pulumi config rm {key}")
        if network[key] and not network[other]:
            raw.problem(other, "", f"{key} is set, so this id is needed, too", f"pulumi config set {other} …")
    ami = str(raw.value("ami"))
    if ami and not re.fullmatch(r"ami-[0-9a-f]{8,17}", ami):
        raw.problem("ami", ami, "it must be the id of a machine image, ami-…", "pulumi config rm ami")
    refresh = str(raw.value("amiRefresh"))
    if not re.fullmatch(r"[A-Za-z0-9.-]*", refresh):
        raw.problem(
            "amiRefresh",
            refresh,
            "it must be letters, digits, '.' and '-'",
            "pulumi config set amiRefresh 2027-01-31",
        )
    if ami and refresh:
        raw.problem("amiRefresh", refresh, "it has no effect while ami is set", "pulumi config rm amiRefresh")
    snapshot = str(raw.value("dataSnapshot"))
    if snapshot and not re.fullmatch(r"snap-[0-9a-f]{8,17}", snapshot):
        raw.problem(
            "dataSnapshot",
            snapshot,
            "it must be the id of a snapshot, snap-…",
            "pulumi config rm dataSnapshot",
        )
    spot, protect = bool(raw.value("spot")), bool(raw.value("protect"))
    if spot and protect:
        raw.problem(
            "spot",
            True,
            "it needs protect false, since AWS cannot protect a spot instance from termination",
            "pulumi config set protect false",
        )
    least = IMAGES_GIB + -(-2 * weights_bytes // 1024**3)
    email = str(raw.value("alarmEmail"))
    if email and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
        raw.problem(
            "alarmEmail", email, "it must be an e-mail address", "pulumi config set alarmEmail NAME@HOST"
        )
    budget = raw.number("monthlyBudget", 0, 1_000_000, "US dollars")
    if budget and not email:
        raw.problem(
            "monthlyBudget",
            budget,
            "it needs alarmEmail, where the mail is sent",
            "pulumi config set alarmEmail NAME@HOST",
        )
    log_days = int(raw.value("logDays"))
    if log_days not in LOG_DAYS:
        raw.problem("logDays", log_days, one_of(map(str, LOG_DAYS)), "pulumi config set logDays 90")
    idle = raw.number("idleStopMinutes", 0, 1440, "minutes")
    if idle and (idle % 5 or idle < IDLE_MINUTES):
        nearest = max(IDLE_MINUTES, idle - idle % 5)
        allowed_idle = (
            f"it must be 0, or a multiple of 5 from {IDLE_MINUTES} up, since the first start downloads for a "
            "long time"
        )
        raw.problem("idleStopMinutes", idle, allowed_idle, f"pulumi config set idleStopMinutes {nearest}")
    return AwsSettings(
        zone=zone,
        instance=instance,
        allowed=allowed,
        access=access,
        admins=admins,
        public_http=public_http,
        vpc_id=network["vpcId"],
        subnet_id=network["subnetId"],
        domain=domain,
        hosted_zone=hosted_zone,
        ami=ami,
        ami_refresh=refresh,
        data_gib=raw.number(
            "dataVolumeGiB",
            least,
            16384,
            "GiB",
            ", enough for both engines' images and weights, and for those that a way back needs",
        ),
        data_snapshot=snapshot,
        spot=spot,
        protect=protect,
        idle_minutes=idle,
        email=email,
        budget=budget,
        log_days=log_days,
        public_keys=dict(raw.value("sshPublicKeys") or {}),
    )
