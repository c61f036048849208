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
    """Whether a host, as a `Host` header names it, with or without a port, can be no other site's."""
    name = _name(host)
    if name is None:
        return False
    if (address := _address(name)) is not None:
        return address.is_loopback or address.is_private
    return "." not in name or any(name == each or name.endswith(f".{each}") for each in RESERVED)


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is the machine itself on which the browser runs."""
    name = _name(host)
    if name is None:
        return False
    if (address := _address(name)) is not None:
        return address.is_loopback
    return name == "localhost" or name.endswith(".localhost")


def refused(headers: Mapping[str, str], origins: Collection[str]) -> Refusal | None:
    """Why a request that needs no key is refused; None: it is not.

    A page may ask if it comes from the browser's own machine or from where the endpoint itself is, or if its
    site is one of `origins`. A page of another machine in the same network may not: nobody here decides
    what such a machine's pages do. What is no browser sends no `Origin`, wherever it runs.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    if not is_local(host):
        return refusals.foreign_host(host)
    if origin is None or origin in origins or "*" in origins:
        return None
    site = _site(origin)
    if site and (is_loopback(site) or site.lower() == host.lower()):
        return None
    return refusals.foreign_origin(origin)


def allowed(headers: Mapping[str, str], origins: Collection[str]) -> dict[str, str]:
    """The headers by which a browser lets a page read the answer; empty where the page's site may not."""
    origin = headers.get("Origin")
    if origin is None or not (origin in origins or "*" in origins):
        return {}
    return {"Access-Control-Allow-Origin": origin, **ANSWERED}


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks, without any key, what a page may send."""
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


def _name(host: str) -> str | None:
    """A host without its port and a dot at its end, in lower case; None: it is no host."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _site(origin: str) -> str:
    """The host and port of an origin; empty where it has none, as `null` and files."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
