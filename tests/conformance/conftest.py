"""The whole way with recording engines, once with the gateway and once without."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.conformance.asking import Answer, Engine, ask
from tests.support.recording_engine import Script
from tests.support.way import Way


@dataclass
class Recorded:
    """A way and its engines; the one that serves is `engine`."""

    way: Way
    vllm: Engine
    ollama: Engine

    @property
    def engine(self) -> Engine:
        return self.vllm if self.way.engine == "vllm" else self.ollama

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Through the edge. Header names have `_` for `-`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.way.port, method, path, body, {"Content-Type": "application/json", **given})

    def post(self, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def each(self, told: Script, paths: Collection[str], raw: bytes) -> dict[str, Answer]:
        """What is answered at each of these paths, all asked at once, where the engine gives this answer."""
        query = self.engine.tell(told)
        with ThreadPoolExecutor(len(paths)) as pool:
            return dict(zip(paths, pool.map(lambda path: self.post(raw, path + query), paths), strict=True))


@pytest.fixture(scope="session", params=[True, False], ids=["tensorzero", "no gateway"])
def made(request: pytest.FixtureRequest) -> Iterator[Recorded]:
    with Way(gateway=request.param) as way:
        recorded = Recorded(way, Engine(way, "vllm"), Engine(way, "ollama"))
        way.start()
        yield recorded


@pytest.fixture(params=["vllm", "ollama"])
def served(request: pytest.FixtureRequest, made: Recorded) -> Recorded:
    """The way with either engine, which has recorded nothing yet."""
    if made.way.engine != request.param:
        made.way.start_gateway(request.param)
        made.way.route(request.param)
    for engine in (made.vllm, made.ollama):
        engine.forget()
    return made
