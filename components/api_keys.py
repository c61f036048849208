"""API keys as the host knows them: by their digests. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping

from switch.shared import TENANT

API_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+-]{15,180}={0,2}")
"""RFC 6750's alphabet for bearer tokens without the slash."""


def document(api_keys: Mapping[str, str], *, never_open: bool) -> str:
    """What the proxies are told, as JSON: whether no key is needed, and whose each key is by its SHA-256.

    `api_keys` maps tenant to key. Without any, the endpoint is open, or, with `never_open`, nobody may pass.
    Raises ValueError, which shows no key.
    """
    for tenant, key in api_keys.items():
        if not TENANT.fullmatch(tenant):
            raise ValueError(
                f"tenant {tenant!r}: a name may have at most 64 letters, digits, '.', '_' and '-'"
            )
        if not API_KEY.fullmatch(key):
            raise ValueError(
                f"the API key of tenant {tenant!r} must be 16 to 180 letters, digits or any of '._~+-', with "
                "'=' only at the end; `openssl rand -hex 32` makes one"
            )
    digests = {hashlib.sha256(key.encode()).hexdigest(): tenant for tenant, key in api_keys.items()}
    if len(digests) != len(api_keys):
        raise ValueError("two tenants have the same API key")
    ordered = dict(sorted(digests.items(), key=lambda each: each[1]))
    return json.dumps({"open": not api_keys and not never_open, "keys": ordered}, indent=1) + "\n"
