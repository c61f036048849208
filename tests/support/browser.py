"""Pages of several sites in a real browser, headless Chromium, and what each of them gets of the endpoint.

One server on this machine is all of the sites; Chromium finds them by a rule of its own instead of DNS. A
page asks the endpoint for what `tests/support/sites/page.html` says, and writes what came of it into a table.
"""

import http.client
import json
import mimetypes
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.support.alone import alone
from tests.support.fast_engine import prompt_of
from tests.support.way import Way

PAGES = Path(__file__).parent / "sites"
LISTED, OWN, OTHER, NEIGHBOUR = "chat.example", "localhost", "other.example", "nas"
REBOUND = "rebound.example"
SITES = {
    LISTED: "a site that corsOrigins names",
    OWN: "a page of the browser's own machine",
    OTHER: "another site",
    NEIGHBOUR: "a page of another machine in the network",
    REBOUND: "another site, whose name now leads to the endpoint",
}
"""Host → whose page it is. Those with a dot are below a domain that nobody can register (RFC 2606)."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "there is no Chromium. On Debian: apt-get install chromium"
KEY = "sk-acme-0123456789"
OPEN, KEYS = "open", "keys"
"""The two phases: without API keys, and with KEY."""
SECONDS = 90
"""In which all pages must have ended, on a busy machine too: by itself it takes about 15."""
SIZE = 1120, 930
"""Of the picture, in pixels."""


@dataclass(frozen=True)
class PageRequest:
    """One thing that a page asked. `engine`: whether it came to the engine."""

    phase: str
    site: str
    what: str
    got: str
    engine: bool


def chromium() -> str | None:
    """The browser's program, where there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Sites:
    """The sites' server, a context manager.

    `endpoint` is the port of the endpoint on the loopback address, `key` what pages send where they send a
    key, `asked` tells the prompts that came to the engine, and `packages` is the folder `node_modules` with
    the package `openai`. `phases` are done one after the other, each begun by a call, with its title.
    """

    def __init__(
        self,
        endpoint: int,
        model: str,
        key: str,
        asked: Callable[[], Collection[str]],
        phases: Mapping[str, tuple[str, Callable[[], None]]],
        packages: Path,
    ) -> None:
        self.endpoint, self.model, self.key = endpoint, model, key
        self.asked, self.phases, self.packages = asked, phases, packages
        self.told = dict[tuple[str, str], list[dict[str, Any]]]()
        """Phase and site → the rows of its table."""
        self.news = threading.Condition()
        self.done = threading.Event()
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.port = self._server.server_port

    def __enter__(self) -> "Sites":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def origin(self, site: str) -> str:
        return f"http://{site}:{self.port}"

    def plan(self) -> dict[str, Any]:
        """What the page that has all others in it is to show."""
        pages = {
            phase: [
                f"{self.origin(site)}/page?"
                + urlencode(
                    {
                        "phase": phase,
                        "is": whose,
                        "model": self.model,
                        "key": self.key,
                        # its own: there the browser believes to be, whoever answers
                        "endpoint": "" if site == REBOUND else f"http://127.0.0.1:{self.endpoint}",
                        "packaged": "yes" if site == LISTED else "",
                    }
                )
                for site, whose in SITES.items()
            ]
            for phase in self.phases
        }
        return {"phases": {phase: title for phase, (title, _) in self.phases.items()}, "pages": pages}

    def ended(self, phase: str) -> bool:
        """Waits until every site's page has told what it got."""
        with self.news:
            return self.news.wait_for(lambda: all((phase, site) in self.told for site in SITES), SECONDS)

    def seen(self, picture: Path) -> list[PageRequest]:
        """Opens all pages in Chromium, and takes a picture of them as they are in the end."""
        program = chromium()
        assert program, MISSING
        names = [f"MAP {site} 127.0.0.1" for site in SITES]
        # Chromium gives up what it is loading where a network appears on the machine or goes, as Docker's do
        ports = {port: port for port in (self.port, self.endpoint)}
        with tempfile.TemporaryDirectory() as name, alone(folder := Path(name), ports) as where:
            command = [
                program,
                "--headless",
                "--no-sandbox",  # root can't have one, and everybody is root there
                *("--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"),
                "--disable-lcd-text",  # grey letters make a smaller file
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                # nothing else is found: the browser asks nobody but this machine
                f"--host-resolver-rules={', '.join(names)}, EXCLUDE 127.0.0.1, MAP * ~NOTFOUND",
                f"--user-data-dir={folder / 'profile'}",
                f"--window-size={SIZE[0]},{SIZE[1]}",
                f"--screenshot={picture}",
                self.origin(OWN),
            ]
            run = where.run(command, cwd=folder, env=os.environ, seconds=2 * SECONDS)
        missing = {(phase, site) for phase in self.phases for site in SITES} - self.told.keys()
        assert run.returncode == 0 and picture.exists() and not missing, f"{missing}\n{run.stderr}"
        return [
            PageRequest(phase, site, **row)
            for phase in self.phases
            for site in SITES
            for row in self.told[phase, site]
        ]


def sites_of(way: Way, packages: Path) -> Sites:
    """For a way with the test engine as `vllm`, which keeps what it is asked."""

    def asked() -> set[str]:
        line = http.client.HTTPConnection("127.0.0.1", way.ports["vllm"], timeout=SECONDS)
        try:
            line.request("GET", "/asked")
            with line.getresponse() as answer:
                return {prompt_of(each["body"]) for each in json.load(answer)}
        finally:
            line.close()

    phases: dict[str, tuple[str, Callable[[], None]]] = {
        OPEN: ("Without API keys", way.keys),
        KEYS: ("With API keys", partial(way.keys, acme=KEY)),
    }
    return Sites(way.port, way.name, KEY, asked, phases, packages)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # 5 by default: a page loads a package's files all at once

    def handle_error(self, *_: Any) -> None:
        """A page that has gone is no error."""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, sites: Sites, *given: Any) -> None:
        self.sites = sites
        super().__init__(*given)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/v1/"):
            return self.relay()
        if path == "/":
            return self.file(PAGES / "index.html")
        if path == "/page":
            return self.file(PAGES / "page.html")
        if path.startswith("/node_modules/"):
            return self.file(self.sites.packages / path.removeprefix("/node_modules/"))
        if path == "/plan":
            return self.give(self.sites.plan())
        if path == "/asked":
            return self.give(sorted(self.sites.asked()))
        if path == "/hold":
            self.sites.done.wait(SECONDS)
        return self.answer(404, "text/plain", b"")

    def do_POST(self) -> None:
        if self.path.startswith("/v1/"):
            return self.relay()
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what, _, phase = self.path[1:].partition("/")
        if what == "told":
            said = json.loads(raw)
            with self.sites.news:
                self.sites.told[said["phase"], said["site"]] = said["rows"]
                self.sites.news.notify_all()
        elif what == "begin":
            self.sites.phases[phase][1]()
        elif what == "end":
            self.sites.ended(phase)
        elif what == "done":
            self.sites.done.set()
        return self.give({})

    def relay(self) -> None:
        """Gives a request on to the endpoint as it came: as if the site's name led there from now on."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = http.client.HTTPConnection("127.0.0.1", self.sites.endpoint, timeout=SECONDS)
        try:
            line.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    line.putheader(name, value)
            line.endheaders(raw)
            with line.getresponse() as answer:
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.end_headers()
                while piece := answer.read1():
                    self.wfile.write(piece)
        except ConnectionError:
            self.close_connection = True  # the page has gone
        finally:
            line.close()

    def file(self, path: Path) -> None:
        if not path.is_file():
            return self.answer(404, "text/plain", b"")
        kind = "text/javascript" if path.suffix == ".mjs" else mimetypes.guess_type(path.name)[0]
        return self.answer(200, kind or "application/octet-stream", path.read_bytes())

    def give(self, said: object) -> None:
        self.answer(200, "application/json", json.dumps(said).encode())

    def answer(self, status: int, kind: str, raw: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass
