"""What is particular to a web browser: pages of which sites may use the endpoint. Pure.

A browser sends its reader's requests for any page that asks it to. So where no key is needed, a page of
another site is refused, and so is a host name that leads here by another site's DNS.
"""

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from proxy import refusals
from proxy.refusals import Refusal

ANSWERED = {"Access-Control-Expose-Headers": "*", "Vary": "Origin"}
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "600",
    **ANSWERED,
}
"""`*` leaves `Authorization` out: fetch.spec.whatwg.org, "CORS non-wildcard request-header name"."""

RESERVED = ("localhost", "test", "local", "internal", "home.arpa")
"""Domains below which nobody can register a name: RFC 6761, 6762, 8375, and ICANN's of July 2024."""


def is_local(host: str) -> bool:
    """Whether a host, as a header or an origin names it, with or without a port, can be no other site's."""
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    try:
        return ipaddress.ip_address(name).is_loopback or ipaddress.ip_address(name).is_private
    except ValueError:
        pass
    return "." not in name or any(name == each or name.endswith(f".{each}") for each in RESERVED)


def refused(headers: Mapping[str, str], origins: Collection[str]) -> Refusal | None:
    """Why a request that needs no key is refused; None: it is not."""
    host, origin = headers.get("Host", ""), headers.get("Origin")
    if not is_local(host):
        return refusals.foreign("host", host)
    if origin is None or origin in origins or "*" in origins:
        return None
    try:
        local = is_local(urlsplit(origin).netloc) and bool(urlsplit(origin).netloc)
    except ValueError:
        local = False
    return None if local else refusals.foreign("origin", origin)


def allowed(headers: Mapping[str, str], origins: Collection[str]) -> dict[str, str]:
    """The headers by which a browser lets a page read the answer; empty where the page's site may not."""
    origin = headers.get("Origin")
    if origin is None or not (origin in origins or "*" in origins):
        return {}
    return {"Access-Control-Allow-Origin": origin, **ANSWERED}


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks, without any key, what a page may send."""
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers
