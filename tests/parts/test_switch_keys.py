"""The keys that the switch gives the proxies, and what it asks these."""

import hashlib
import io
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from switch import __main__ as cli
from switch import keys, proxies, verbs
from switch.asking import UNAVAILABLE
from switch.checks import Failed
from switch.docker import Docker
from switch.keys import FILE, apply, look, parse
from switch.plan import PlanError
from switch.proxies import Status, statuses
from tests.parts.conftest import Serve
from tests.support.simulated_host import SECONDS

DIGEST, OTHER = "a" * 64, "b" * 64
ONE = parse({"open": False, "keys": {DIGEST: "acme"}})
SAID = {"applied": 3, "running": {"ollama-1": 2}, "held": 1, "tenants": {}, "keys": "", "draining": False}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([], "must be an object"),
        ({"open": True}, "must be an object"),
        ({"open": True, "keys": {}, "more": 1}, "must be an object"),
        ({"open": 1, "keys": {}}, "`open` must be true or false"),
        ({"open": True, "keys": []}, "`keys` an object"),
        ({"open": False, "keys": {DIGEST: "a", "sk-secret-secret-secret": "b"}}, "name 1 of `keys`"),
        ({"open": False, "keys": {DIGEST.upper(): "a"}}, "name 0 of `keys`"),
        ({"open": False, "keys": {DIGEST: "a b"}}, "value 0 of `keys` must be a tenant"),
        ({"open": False, "keys": {DIGEST: 3}}, "value 0 of `keys` must be a tenant"),
    ],
)
def test_wrong_keys_are_refused_and_not_repeated(raw: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said) as caught:
        parse(raw)
    assert "secret" not in str(caught.value) and "aaaa" not in str(caught.value)


def known(content: str) -> Callable[[list[str]], dict[str, Status]]:
    """Proxies that have taken note of these keys."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    return lambda names: {name: Status(1, {}, 0, {}, digest, False) for name in names}


def unsaid(line: str) -> None:
    raise AssertionError(f"nothing has to be waited for, but it says: {line}")


def test_keys_are_in_force_when_every_proxy_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, asked = tmp_path / "journal" / "keys.json", list[list[str]]()

    def ask(names: list[str]) -> dict[str, Status]:
        asked.append(names)
        old = known("")(names)
        return old if len(asked) == 1 else old | known(ONE)(names[:1] if len(asked) == 2 else names)

    monkeypatch.setattr(keys, "statuses", ask)
    said = apply(ONE, "", tmp_path, memory, lambda: ["proxy-1", "proxy-2"], unsaid)
    assert said == "keys of 1 tenant: known to proxy-1 and proxy-2" and len(asked) == 3
    assert json.loads((tmp_path / FILE).read_text()) == {"open": False, "keys": {DIGEST: "acme"}}
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o644
    assert memory.stat().st_mode & 0o777 == 0o600
    everybody = parse({"open": True, "keys": {}})
    monkeypatch.setattr(keys, "statuses", known(everybody))
    said = apply(everybody, "", tmp_path, memory, list, unsaid)
    assert said == "no key is needed: known to every proxy that will start"


def test_a_proxy_that_does_not_take_note_of_the_keys_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(keys, "statuses", lambda names: known(ONE)(names[:1]))
    with pytest.raises(Failed, match="proxy-2 did not take note of them within") as caught:
        apply(ONE, "", tmp_path, tmp_path / "memory", lambda: ["proxy-1", "proxy-2"], unsaid)
    assert DIGEST not in str(caught.value) and (tmp_path / FILE).exists()


class Clock:
    """Time that passes only while something is waited for."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keys, "time", clock)
    return clock


def test_a_proxy_that_hangs_is_waited_for_until_it_has_been_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    again = SECONDS.answers + 15  # it is found out and started again by then
    monkeypatch.setattr(keys, "statuses", lambda names: known(ONE)(names) if clock.now > again else {})
    told = list[str]()
    said = apply(ONE, "", tmp_path, tmp_path / "memory", lambda: ["proxy-1"], told.append)
    assert said == "keys of 1 tenant: known to proxy-1"
    assert told == ["waiting for proxy-1 to take note of the keys"]


def test_a_docker_that_stalls_is_waited_for_and_no_proxy_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    began_again = 250.0

    def proxies() -> list[str]:
        if clock.now < began_again:
            clock.sleep(15)
            raise TimeoutError("Docker gives no answer within 15 s")
        return ["proxy-1"]

    monkeypatch.setattr(keys, "statuses", lambda names: known(ONE)(names) if clock.now > 300 else {})
    told = list[str]()
    said = apply(ONE, "", tmp_path, tmp_path / "memory", proxies, told.append)
    assert said == "keys of 1 tenant: known to proxy-1"
    assert set(told[:-1]) == {"Docker gives no answer within 15 s; waiting for it"}
    began_again = clock.now + 1000
    with pytest.raises(TimeoutError, match="Docker gives no answer"):
        apply(ONE, "", tmp_path, tmp_path / "memory", proxies, told.append)


def test_the_cli_says_that_it_is_docker_which_gives_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "docker.sock")
    call = Docker.call
    monkeypatch.setattr(keys, "DOCKER_SECONDS", 0)
    monkeypatch.setattr(Docker.__init__, "__defaults__", (path,))
    monkeypatch.setattr(Docker, "call", lambda self, method, url: call(self, method, url, timeout=0.1))
    monkeypatch.setattr(verbs, "SHARED", tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(ONE))
    with socket.socket(socket.AF_UNIX) as stopped:  # it accepts connections, and says nothing
        stopped.bind(path)
        stopped.listen()
        assert cli.main(["keys"]) == UNAVAILABLE
    assert capsys.readouterr().out == "keys: Docker gives no answer within 0.1 s\n"


def test_an_edit_of_the_keys_shows_once_and_its_repair_leaves_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    monkeypatch.setattr(keys, "statuses", lambda names: {})

    def bring(content: str, seen: str) -> None:
        apply(content, seen, tmp_path, memory, list, unsaid)

    assert look(tmp_path, memory) == "as declared"
    bring(ONE, look(tmp_path, memory))
    assert look(tmp_path, memory) == "as declared"
    (tmp_path / FILE).write_text("{}")
    said = look(tmp_path, memory)
    assert said.startswith("edited in place ") and look(tmp_path, memory) == said
    bring(ONE, said)
    assert look(tmp_path, memory) == said
    (tmp_path / FILE).unlink()
    gone = look(tmp_path, memory)
    assert gone.startswith("edited in place") and gone != said
    bring(parse({"open": False, "keys": {OTHER: "acme"}}), gone)
    assert look(tmp_path, memory) == gone


def test_what_proxies_say_is_asked_of_all_at_once_and_who_says_nothing_is_left_out(
    serve_json: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies, "PROXY_PORT", serve_json({"/status": {**SAID, "of a later version": 1}}))
    assert statuses(["127.0.0.1", "nobody.invalid"]) == {
        "127.0.0.1": Status(3, {"ollama-1": 2}, 1, {}, "", False)
    }
    monkeypatch.setattr(proxies, "PROXY_PORT", serve_json({"/status": {**SAID, "applied": "three"}}))
    assert statuses(["127.0.0.1"]) == {}
    assert statuses([]) == {}


def test_a_proxy_that_hangs_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(container: str, seconds: float) -> Status:
        time.sleep(0.05 if container == "good" else 2)
        return Status(3, {}, 0, {}, "", False)

    monkeypatch.setattr(proxies, "status", hangs)
    began = time.monotonic()
    assert list(statuses(["bad", "good", "worse"], seconds=0.3)) == ["good"]
    assert time.monotonic() - began < 1
