"""Which pages of which sites may use the endpoint from a browser."""

import hashlib
from pathlib import Path

import pytest

from proxy import browsers
from proxy.protocols import CHAT, MESSAGES, MODELS
from tests.unit.test_proxy_protocols import status
from tests.unit.test_proxy_serving import BODY, Bench, quiet, request, run

assert quiet, "a fixture that is used in this module too"

SITE = "https://chat.example.com"
LOCAL = (
    "localhost", "localhost:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "edge:8080", "llm.localhost",
    "box.local", "10.0.0.7:8080", "host.docker.internal", "LOCALHOST", "localhost.",
)  # fmt: skip
FOREIGN = (
    "example.com", "localhost.example.com", "127.0.0.1.example.com", "93.184.216.34", "evil.test.com",
    "example.com:8080", "[2606:2800::1]", "notlocalhost.com", "rebind.it",
)  # fmt: skip


@pytest.mark.parametrize("host", LOCAL)
def test_names_that_can_be_no_other_site_are_local(host: str) -> None:
    assert browsers.is_local(host)


@pytest.mark.parametrize("host", FOREIGN)
def test_names_that_can_be_another_sites_are_not(host: str) -> None:
    assert not browsers.is_local(host)


def headers(answer: bytes) -> dict[str, str]:
    lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def with_host(raw: bytes, host: str) -> bytes:
    return raw.replace(b"Host: test\r\n", f"Host: {host}\r\n".encode())


def test_without_keys_a_foreign_host_or_origin_is_refused_and_with_keys_the_key_decides(
    tmp_path: Path,
) -> None:
    key = "sk-1"
    digest = hashlib.sha256(key.encode()).hexdigest()

    async def story(bench: Bench) -> None:
        for path in (CHAT, MESSAGES):
            for host in FOREIGN:
                answer = await bench.ask(with_host(request(path), host))
                assert status(answer) == 403 and b"belongs to another site" in answer
                answer = await bench.ask(request(path, BODY, f"Origin: https://{host}"))
                assert status(answer) == 403
            for host in LOCAL:
                assert status(await bench.ask(with_host(request(path), host))) == 200
            for origin in ("null", "file://", "chrome-extension://abc.def", "https://"):
                assert status(await bench.ask(request(path, BODY, f"Origin: {origin}"))) == 403, origin
            assert status(await bench.ask(request(path, BODY, "Origin: http://localhost:3000"))) == 200
        assert len(bench.engine.records) == 2 * (len(LOCAL) + 1)
        bench.keys({"open": False, "keys": {digest: "acme"}})
        raw = with_host(request(CHAT, BODY, f"Origin: {SITE}", f"Authorization: Bearer {key}"), "example.com")
        answer = await bench.ask(raw)
        assert status(answer) == 200
        assert "access-control-allow-origin" not in headers(answer), "no page may read it"

    run(story, tmp_path)


@pytest.mark.parametrize("origins", [(SITE,), ("*",)])
def test_a_named_site_may_ask_first_and_read_every_answer(tmp_path: Path, origins: tuple[str, ...]) -> None:
    async def story(bench: Bench) -> None:
        bench.origins = origins
        bench.route()
        ask = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
        preflight = request(CHAT, b"", f"Origin: {SITE}", *ask, method="OPTIONS")
        bench.keys({"open": False, "keys": {}})
        answer = await bench.ask(preflight)
        said = headers(answer)
        assert status(answer) == 204 and said["access-control-allow-origin"] == SITE
        assert (
            "Authorization" in said["access-control-allow-headers"]
            and "POST" in said["access-control-allow-methods"]
        )
        refused = await bench.ask(request(CHAT, BODY, f"Origin: {SITE}"))
        assert status(refused) == 401 and headers(refused)["access-control-allow-origin"] == SITE
        bench.keys({"open": True, "keys": {}})
        for raw, code in (
            (request(CHAT, BODY, f"Origin: {SITE}"), 200),
            (request(CHAT, b"[", f"Origin: {SITE}"), 400),
            (request(MODELS, b"", f"Origin: {SITE}", method="GET"), 200),
        ):
            answer = await bench.ask(raw)
            said = headers(answer)
            assert status(answer) == code and said["access-control-allow-origin"] == SITE
            assert said["vary"] == "Origin"
        if origins != ("*",):
            other = preflight.replace(SITE.encode(), b"https://other.example.com")
            assert status(await bench.ask(other)) in (403, 405)

    run(story, tmp_path)
