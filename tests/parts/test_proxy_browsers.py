"""Which pages of which sites may use the endpoint from a browser."""

import hashlib
from pathlib import Path

import pytest

from proxy import browsers, waiting
from proxy.protocols import CHAT, MESSAGES, MODELS, STREAMED
from tests.parts.test_proxy_protocols import GOOD, STREAM, status, told_to_wait
from tests.parts.test_proxy_serving import BODY, Bench, quiet, request, run

assert quiet, "a fixture that is used in this module too"

SITE = "https://chat.example.com"
LOCAL = (
    "localhost", "localhost:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "edge:8080", "llm.localhost",
    "box.local", "10.0.0.7:8080", "host.docker.internal", "LOCALHOST", "localhost.",
)  # fmt: skip
FOREIGN = (
    "example.com", "localhost.example.com", "127.0.0.1.example.com", "93.184.216.34", "evil.test.com",
    "example.com:8080", "[2606:2800::1]", "notlocalhost.com", "rebind.it", "[", "[::1",
)  # fmt: skip
OWN_PAGES = (
    "http://localhost:3000", "https://localhost", "http://127.0.0.1:3000", "http://127.9.9.9",
    "http://[::1]:3000", "http://chat.localhost", "http://LOCALHOST:3000",
)  # fmt: skip
FOREIGN_PAGES = (
    "null", "file://", "chrome-extension://abc.def", "https://", "", "http://[", "http://test:81",
    "http://localhost@example.com", "http://localhost.example.com", "http://192.168.1.1",
    "http://10.0.0.7:8080", "http://nas", "http://nas.local", "http://router.home.arpa",
)  # fmt: skip
"""Of other sites and of other machines in the network: the endpoint's own host is `test`."""


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
            for origin in FOREIGN_PAGES:
                answer = await bench.ask(request(path, BODY, f"Origin: {origin}"))
                assert status(answer) == 403 and b"The origin " in answer, origin
            for origin in OWN_PAGES:
                assert status(await bench.ask(request(path, BODY, f"Origin: {origin}"))) == 200, origin
        assert len(bench.engine.records) == 2 * (len(LOCAL) + len(OWN_PAGES))
        bench.keys({"open": False, "keys": {digest: "acme"}})
        raw = with_host(request(CHAT, BODY, f"Origin: {SITE}", f"Authorization: Bearer {key}"), "example.com")
        answer = await bench.ask(raw)
        assert status(answer) == 200
        assert "access-control-allow-origin" not in headers(answer), "no page may read it"

    run(story, tmp_path)


@pytest.mark.parametrize("host", ["edge:8080", "gpu-box", "192.168.1.7:8080", "llm.home.arpa"])
def test_a_page_that_is_served_where_the_endpoint_is_may_use_it_and_its_neighbour_may_not(
    tmp_path: Path, host: str
) -> None:
    async def story(bench: Bench) -> None:
        for origin, code in (
            (f"http://{host}", 200),
            (f"https://{host.upper()}", 200),
            (f"http://{host.partition(':')[0]}:3000", 403),
            ("http://192.168.1.1", 403),
        ):
            raw = with_host(request(CHAT, BODY, f"Origin: {origin}"), host)
            assert status(await bench.ask(raw)) == code, origin

    run(story, tmp_path)


def test_a_foreign_hosts_own_page_is_as_foreign(tmp_path: Path) -> None:
    """As where another site's name leads here after it has led to that site's page."""

    async def story(bench: Bench) -> None:
        bench.origins = ("http://rebind.it:8080",)
        bench.route()
        for origin in ("http://rebind.it:8080", "http://localhost:8080"):
            raw = with_host(request(CHAT, BODY, f"Origin: {origin}"), "rebind.it:8080")
            answer = await bench.ask(raw)
            assert status(answer) == 403 and b"The host " in answer
        assert not bench.engine.records

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


@pytest.mark.parametrize("path", STREAMED)
def test_a_named_sites_page_may_read_a_stream_that_is_held_from_its_first_word_on(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "WORD_SECONDS", 0.1)

    async def story(bench: Bench) -> None:
        bench.origins = (SITE,)
        bench.engine.scripts["told"] = GOOD
        bench.route(held_since=1.0)
        raw = request(f"{path}?answer=told", STREAM, f"Origin: {SITE}")
        rest = await told_to_wait(bench, raw)
        bench.route()
        said = headers(await rest)
        assert said["access-control-allow-origin"] == SITE and said["vary"] == "Origin"

    run(story, tmp_path)
