"""The edge's contract, on the real Caddy and the real gateway: what a client gets, whatever is behind them.

Each test is a client at the published port. Behind it stand the gateway with the rendered TOML and a
scripted engine that tells what reached it. Everything is made here, on a network of its own, and removed.
"""

import contextlib
import http.client
import io
import json
import subprocess
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from components import caddyfile, pins, tensorzero
from switch.edge import at_engine, counted
from tests.support import scripted_engine
from tests.support.scripted_engine import digest

pytestmark = pytest.mark.engine

MODEL = "qwen-2.5-coder-7b"
EMBEDDER = "nomic-embed-text"
MAX_CHARS = 5_000_000
MAX_BODY = 4 * 1024 * 1024
HOLD = 20
ACME_KEY = "sk-acme~0123456789.abc+def=="
GLOBEX_KEY = "sk-globex-0123456789"

Json = dict[str, Any]


def docker(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Json:
        value: Json = json.loads(self.text)
        return value

    @property
    def echo(self) -> Json:
        """What the scripted engine says it was asked."""
        value: Json = json.loads(self.json["choices"][0]["message"]["content"])
        return value

    @property
    def error(self) -> Json:
        """The error, which has exactly the fields of OpenAI's."""
        assert self.headers["content-type"].startswith("application/json"), self
        assert set(self.json) == {"error"}
        error: Json = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error


@dataclass
class Edge:
    """An edge, a gateway and an engine on a Docker network of their own."""

    run: str = field(default_factory=lambda: f"edge-contract-{uuid.uuid4().hex[:8]}")
    config: caddyfile.EdgeConfig = field(
        default_factory=lambda: caddyfile.EdgeConfig(
            listen=":8080",
            models=(MODEL,),
            embedding_model=EMBEDDER,
            hold_seconds=HOLD,
            max_body_bytes=MAX_BODY,
        )
    )
    gateways: int = 0
    port: int = 0

    def start(self) -> None:
        docker("network", "create", "--label", f"test={self.run}", self.run)
        self.start_engine()
        self.start_gateway()
        self._create("edge", pins.EDGE.offline, "-p", "127.0.0.1::8080")
        self._start("edge", "/etc/caddy/Caddyfile", caddyfile.render(self.config))
        self.port = int(docker("port", self.name("edge"), "8080").splitlines()[0].rpartition(":")[2])
        eventually(lambda: self.get(caddyfile.HEALTH_PATH).status == 200)
        self.apply(self.config)
        assert self.chat().status == 200

    def start_engine(self, *, model: str = MODEL) -> None:
        source = Path(scripted_engine.__file__).read_text()
        command = ["python3", "/engine.py", "--model", model, "--max-chars", str(MAX_CHARS)]
        self._create("engine", pins.SWITCH.offline, alias="engine", command=command)
        self._start("engine", "/engine.py", source)

    def start_gateway(self, engine: str = "http://engine:8000/v1/") -> str:
        """One more gateway beside those that run, for this engine; its name."""
        self.gateways += 1
        name = f"gateway-{self.gateways}"
        command = list(tensorzero.COMMAND)
        self._create(name, pins.GATEWAY.offline, alias="gateway", command=command)
        self._start(name, tensorzero.CONFIG_FILE, tensorzero.render(gateway_config(engine)))
        return name

    def name(self, role: str) -> str:
        return f"{self.run}-{role}"

    def _create(
        self, role: str, image: str, *options: str, alias: str | None = None, command: list[str] | None = None
    ) -> None:
        aliases = ["--network-alias", alias] if alias else []
        labels = ["--label", f"test={self.run}", "--name", self.name(role)]
        docker("create", "--network", self.run, *aliases, *labels, *options, image, *(command or []))

    def _start(self, role: str, path: str, content: str) -> None:
        data, packed = content.encode(), io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:  # `docker cp` makes no folder for a file
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
        copy = ["docker", "cp", "-", f"{self.name(role)}:/"]
        subprocess.run(copy, input=packed.getvalue(), capture_output=True, check=True)
        docker("start", self.name(role))

    def stop(self, role: str, *, grace: int = 30) -> None:
        docker("stop", "-t", str(grace), self.name(role))

    def resume(self, role: str) -> None:
        docker("start", self.name(role))

    def remove(self) -> None:
        label = f"label=test={self.run}"
        if containers := docker("ps", "-aq", "--filter", label).split():
            docker("rm", "-fv", *containers)
        if networks := docker("network", "ls", "-q", "--filter", label).split():
            docker("network", "rm", *networks)

    def apply(self, config: caddyfile.EdgeConfig) -> None:
        shell = ["sh", "-c", caddyfile.APPLY]
        docker("exec", "-i", self.name("edge"), *shell, stdin=caddyfile.apply_input(config))

    @contextlib.contextmanager
    def configured(self, **changes: Any) -> Iterator[None]:
        self.apply(replace(self.config, **changes))
        yield
        self.apply(self.config)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            sent = {"Content-Type": "application/json"} if body is not None else {}
            sent |= {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            text = response.read().decode()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, text)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, None, **headers)

    def post(self, body: bytes | str | Json, path: str = "/v1/chat/completions", **headers: str) -> Answer:
        if isinstance(body, dict):
            body = json.dumps(body)
        return self.request("POST", path, body.encode() if isinstance(body, str) else body, **headers)

    def chat(self, content: str = "hello", **fields: Any) -> Answer:
        return self.post({"model": MODEL, "messages": [{"role": "user", "content": content}], **fields})

    def counters(self, path: str) -> bytes:
        """What the switch reads of the edge, from inside, where it can be reached."""
        page = f"http://127.0.0.1:{caddyfile.METRICS_PORT}{path}"
        return docker("exec", self.name("edge"), "wget", "-qO-", page).encode()

    def asked(self) -> list[Json]:
        """What the engine was asked so far; from inside, where its port can be reached."""
        script = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/requests').read().decode())"
        )
        answer: Json = json.loads(docker("exec", self.name("engine"), "python3", "-c", script))
        requests: list[Json] = answer["requests"]
        return requests

    def log(self) -> list[Json]:
        lines = subprocess.run(
            ["docker", "logs", self.name("edge")], capture_output=True, text=True, check=True
        )
        text = lines.stdout + lines.stderr
        entries = [json.loads(line) for line in text.splitlines()]
        return [entry for entry in entries if entry.get("logger", "").startswith("http.log.access")]

    def settle(self) -> None:
        """Wait until the log has stopped growing."""
        seen = -1
        while seen != (seen := len(self.log())):
            time.sleep(0.3)

    def logged(self, before: int, count: int) -> list[Json]:
        """The `count` entries that follow the first `before`; an answer can be here before its entry."""
        eventually(lambda: len(self.log()) >= before + count)
        entries = self.log()[before:]
        assert len(entries) == count
        return entries

    def reloads(self) -> int:
        done = subprocess.run(
            ["docker", "logs", self.name("edge")], capture_output=True, text=True, check=True
        )
        return (done.stdout + done.stderr).count('"servers shutting down')

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0)


class Load:
    """Clients that ask without a pause, half of them streaming, each on a connection that it keeps."""

    def __init__(self, edge: Edge, *, clients: int, key: str = "none") -> None:
        self.edge, self.key = edge, key
        self.good = 0
        self.bad: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n % 2 == 0,)) for n in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, stream: bool) -> None:
        content = "[[tokens=5]][[pace=0.02]]" if stream else "[[delay=0.05]]"
        body = {"messages": [{"role": "user", "content": content}], "model": MODEL, "stream": stream}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        connection = http.client.HTTPConnection("127.0.0.1", self.edge.port, timeout=120)
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
                response = connection.getresponse()
                text = response.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.bad.append(repr(error))
                connection.close()
                continue
            if response.status == 200 and '"finish_reason":"stop"' in text:
                self.good += 1
            else:
                self.bad.append(f"{response.status} {text[-300:]}")
        connection.close()


def gateway_config(engine: str) -> tensorzero.GatewayConfig:
    def provider(model: str) -> tuple[tensorzero.Provider]:
        return (tensorzero.Provider(kind="vllm", api_base=engine, model_name=model),)

    limits = tensorzero.Timeouts(total=30, first_token=30, stream=60)
    model = tensorzero.Model(name=MODEL, providers=provider(MODEL), timeouts=limits)
    embedding = tensorzero.EmbeddingModel(name=EMBEDDER, providers=provider(MODEL), timeout=30)
    return tensorzero.GatewayConfig(models=(model,), embedding=embedding)


def eventually(true: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if true():
                return
        assert time.monotonic() < limit, "not within the time given"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    edge = Edge()
    try:
        edge.start()
        yield edge
    finally:
        edge.remove()


def test_the_documented_check_works_as_it_is_written(edge: Edge) -> None:
    body = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "test"}}]}}'
    answer = edge.post(body, X_Tenant_ID="test")
    assert answer.status == 200
    assert answer.json["choices"][0]["finish_reason"] == "stop"


MESSAGES = '"messages":[{"role":"user","content":"hi"}]'


def test_models_are_listed_and_found_by_name(edge: Edge) -> None:
    assert [model["id"] for model in edge.get("/v1/models").json["data"]] == [MODEL, EMBEDDER]
    assert edge.get(f"/v1/models/{MODEL}").json["id"] == MODEL
    unknown = edge.get("/v1/models/gpt-4o")
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")


def test_the_health_path_shows_nothing_and_is_not_logged(edge: Edge) -> None:
    edge.settle()
    before = len(edge.log())
    answer = edge.get(caddyfile.HEALTH_PATH)
    assert (answer.status, answer.text) == (200, "")
    edge.settle()
    assert len(edge.log()) == before


def test_the_openai_client_gets_an_answer_and_a_stream(edge: Edge) -> None:
    with edge.client() as client:
        whole = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
        assert whole.choices[0].finish_reason == "stop"
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "[[tokens=5]]"}], stream=True
        )
        reasons = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
        assert reasons[-1] == "stop"
        vector = client.embeddings.create(model=EMBEDDER, input="x", encoding_format="float")
        assert vector.data[0].embedding == [0.25, 0.5]


def test_a_stream_arrives_as_it_is_made(edge: Edge) -> None:
    with edge.client() as client:
        content = "[[tokens=4]][[pace=0.5]]"
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}], stream=True
        )
        times = [time.monotonic() for chunk in stream if chunk.choices]
    assert times[3] - times[0] > 1.2


@pytest.mark.parametrize(
    "body",
    [
        f'{{"model":"tensorzero::model_name::{MODEL}",{MESSAGES}}}',
        f'{{{MESSAGES},"model":"{MODEL}"}}',
        f'{{"metadata":{{"model":"x"}},{MESSAGES},"model":"{MODEL}"}}',
        f'{{"model":"{MODEL}",{MESSAGES},"metadata":{{"model":"x"}}}}',
        f'{{\n  "model" :\t"{MODEL}",\r\n  {MESSAGES}\n}}\n',
    ],
)
def test_the_bare_name_reaches_the_engine_wherever_the_model_stands(edge: Edge, body: str) -> None:
    answer = edge.post(body)
    assert answer.status == 200, answer
    assert answer.echo["body"]["model"] == MODEL


@pytest.mark.parametrize(
    "content",
    [
        "{env.HOME} {http.request.header.Host} {file./etc/passwd} $1 ${1} {{x}} \\{env.HOME}",
        '"model": "x", \\ "tensorzero::tags": {} {"type": "tensorzero::raw_text"}',
        "größe 漢字 🙂 \u0000 \\u0074ensorzero",
        "} { ] [ , : \" ' `",
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_prompt_arrives_as_it_was_sent(edge: Edge, content: str, ascii_only: bool) -> None:
    body = {"messages": [{"role": "user", "content": content}], "model": MODEL}
    answer = edge.post(json.dumps(body, ensure_ascii=ascii_only))
    assert answer.status == 200, answer
    assert answer.echo["body"]["messages"][0]["content"] == content


def test_three_megabytes_arrive_whole(edge: Edge) -> None:
    content = 'x{env.HOME}"y\\n' * 200_000
    told = edge.chat(content).echo["body"]["messages"][0]["content"]
    assert told == {"length": len(content), "sha256": digest(content)}


def test_neither_key_nor_tenant_nor_cookie_is_sent_on(edge: Edge) -> None:
    answer = edge.post(
        {"model": MODEL, "messages": [{"role": "user", "content": "x"}]},
        Authorization="Bearer secret",
        Cookie="secret=1",
        X_Tenant_ID="secret",
    )
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "fields",
    [
        '"tensorzero::tags":{"tenant":"x"}',
        '"tensorzero::extra_body" : []',
        '"\\u0074ensorzero::credentials":{}',
        '"a":{"tensorzero\\u003a:x":1}',
        '"a":[{"type":"tensorzero::raw_text","value":"x"}]',
    ],
)
def test_fields_of_the_gateway_are_refused(edge: Edge, fields: str) -> None:
    answer = edge.post(f'{{"model":"{MODEL}",{MESSAGES},{fields}}}')
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (f"{{{MESSAGES}}}", "missing_required_parameter"),
        (f'{{"model":"{MODEL}"}}', "missing_required_parameter"),
        (f'{{"model":"{MODEL}",{MESSAGES},"model":"x"}}', "missing_required_parameter"),
        (f'{{"model":7,{MESSAGES}}}', "missing_required_parameter"),
        ("not JSON", "missing_required_parameter"),
        ("[]", "missing_required_parameter"),
        ("", "missing_required_parameter"),
        (f'{{"model":"{MODEL}",{MESSAGES},"temperature":"hot"}}', None),
    ],
)
def test_what_is_no_request_is_a_400_in_openais_shape(edge: Edge, body: str, code: str | None) -> None:
    answer = edge.post(body)
    assert (answer.status, answer.error["code"]) == (400, code)


@pytest.mark.parametrize(
    "name",
    ["gpt-4o", "", "{env.HOME}", f"tensorzero::function_name::{MODEL}", "tensorzero::model_name::openai::x"],
)
def test_an_unknown_model_is_a_404_that_names_it(edge: Edge, name: str) -> None:
    answer = edge.post({"model": name, "messages": [{"role": "user", "content": "x"}]})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert name.removeprefix("tensorzero::model_name::") in answer.error["message"]


def test_other_paths_methods_and_sizes_are_refused_in_openais_shape(edge: Edge) -> None:
    assert edge.get("/v1/files").error["code"] == "not_found"
    assert edge.get("/openai/v1/chat/completions").status == 404
    wrong = edge.get("/v1/chat/completions")
    assert (wrong.status, wrong.headers["allow"], wrong.error["code"]) == (405, "POST", "method_not_allowed")
    large = edge.chat("x" * MAX_BODY)
    assert (large.status, large.error["code"]) == (413, "request_too_large")


def test_an_engines_refusal_reaches_the_client_and_is_not_retried(edge: Edge) -> None:
    before = len(edge.asked())
    for stream in (False, True):
        answer = edge.chat("[[status=400]]", stream=stream)
        assert (answer.status, answer.error["message"]) == (400, "as told")
        assert answer.headers["x-should-retry"] == "false"
    assert len(edge.asked()) == before + 4  # by the gateway, and once more for the cause


@pytest.mark.parametrize(("told", "status"), [(500, 502), (404, 502), (503, 503), (429, 429)])
def test_an_engines_failure_is_one_that_a_client_retries(edge: Edge, told: int, status: int) -> None:
    answer = edge.chat(f"[[status={told}]]")
    assert answer.status == status
    assert answer.error["message"]
    assert "x-should-retry" not in answer.headers


def test_a_request_that_succeeds_is_asked_once(edge: Edge) -> None:
    before = len(edge.asked())
    assert edge.chat().status == 200
    assert len(edge.asked()) == before + 1


def test_the_access_log_tells_tenant_model_status_and_time_and_no_more(edge: Edge) -> None:
    edge.settle()
    before = len(edge.log())
    edge.post(
        {"model": MODEL, "messages": [{"role": "user", "content": "a-private-prompt"}]},
        path="/v1/chat/completions?key=a-private-query",
        Authorization="Bearer a-private-key",
        X_Tenant_ID="acme",
    )
    edge.get("/v1/models", X_Tenant_ID="not a tenant")
    # a line is written after its answer: the second request's may come first
    models, chat = sorted(edge.logged(before, 2), key=lambda line: str(line["request"]["method"]))
    assert (chat["tenant"], chat["model"], chat["status"]) == ("acme", MODEL, 200)
    assert (chat["request"]["method"], chat["request"]["uri"]) == ("POST", "/v1/chat/completions")
    assert chat["duration"] > 0
    assert (models["tenant"], models["model"]) == ("-", "-")
    assert "a-private" not in json.dumps(edge.log())


def test_keys_decide_who_may_and_who_it_was(edge: Edge) -> None:
    with edge.configured(api_keys={"acme": ACME_KEY, "globex": GLOBEX_KEY}):
        refused: list[dict[str, str]] = [{}, {"Authorization": "Bearer nobody"}, {"X_Tenant_ID": "acme"}]
        for wrong in refused:
            answer = edge.get("/v1/models", **wrong)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for almost in (ACME_KEY[:-1], ACME_KEY[:-5] + "*", "../api-keys/" + ACME_KEY, ACME_KEY + ":acme"):
            assert edge.get("/v1/models", Authorization=f"Bearer {almost}").status == 401
        assert edge.get(caddyfile.HEALTH_PATH).status == 200
        edge.settle()
        before = len(edge.log())
        assert edge.get("/v1/models", Authorization=f"Bearer {ACME_KEY}").status == 200
        edge.get("/v1/models", Authorization=f"Bearer {GLOBEX_KEY}", X_Tenant_ID="acme")
        assert [entry["tenant"] for entry in edge.logged(before, 2)] == ["acme", "globex"]
    assert edge.get("/v1/models").status == 200
    assert ACME_KEY not in json.dumps(edge.log())


def test_a_configuration_that_is_not_valid_changes_nothing(edge: Edge) -> None:
    text = caddyfile.apply_input(replace(edge.config, api_keys={"acme": ACME_KEY}))
    with pytest.raises(RuntimeError, match="nonsense"):
        shell = ["sh", "-c", caddyfile.APPLY]
        docker("exec", "-i", edge.name("edge"), *shell, stdin=text + ":9 {\n\tnonsense\n}\n")
    assert edge.get("/v1/models").status == 200


def test_the_first_key_and_the_last_cut_nobody_who_sends_it(edge: Edge) -> None:
    closed = replace(edge.config, api_keys={"acme": ACME_KEY})
    with Load(edge, clients=16, key=ACME_KEY) as load:
        reloads = edge.reloads()
        for _ in range(5):
            edge.apply(closed)
            assert edge.get("/v1/models").status == 401
            edge.apply(edge.config)
            assert edge.get("/v1/models").status == 200
        assert edge.reloads() == reloads
    assert load.good > 100
    assert load.bad == []


def test_keys_rotate_under_load_and_nobody_is_cut(edge: Edge) -> None:
    def rotating(number: int) -> dict[str, str]:
        return {"acme": ACME_KEY, "globex": f"sk-globex-rotated-{number:08}"}

    with edge.configured(api_keys=rotating(0)), Load(edge, clients=16, key=ACME_KEY) as load:
        reloads = edge.reloads()
        for number in range(1, 11):
            edge.apply(replace(edge.config, api_keys=rotating(number)))
            old, new = rotating(number - 1)["globex"], rotating(number)["globex"]
            assert edge.get("/v1/models", Authorization=f"Bearer {old}").status == 401
            assert edge.get("/v1/models", Authorization=f"Bearer {new}").status == 200
        assert edge.reloads() == reloads
    assert load.good > 100
    assert load.bad == []


def test_a_gateway_that_stops_under_load_loses_nothing(edge: Edge) -> None:
    with Load(edge, clients=24) as load:
        for _ in range(2):
            name = f"gateway-{edge.gateways}"
            edge.stop(name)
            time.sleep(1)
            edge.resume(name)
            time.sleep(4)
    assert load.good > 100
    assert load.bad == []


def test_a_new_gateway_beside_the_old_one_takes_over_and_nothing_is_lost(edge: Edge) -> None:
    with Load(edge, clients=24) as load:
        old = f"gateway-{edge.gateways}"
        edge.start_gateway()
        time.sleep(4)
        edge.stop(old)
        docker("rm", edge.name(old))
        time.sleep(1)
    assert load.good > 100
    assert load.bad == []


def test_requests_are_held_through_reloads_and_streams_go_on(edge: Edge) -> None:
    name = f"gateway-{edge.gateways}"
    with ThreadPoolExecutor(16) as pool:
        stream = pool.submit(edge.chat, "[[tokens=30]][[pace=0.1]]", stream=True)
        time.sleep(0.5)
        with edge.configured(hold_seconds=HOLD + 1):
            pass
        assert stream.result().text.rstrip().endswith("data: [DONE]")
        edge.stop(name)
        held = [pool.submit(edge.chat) for _ in range(8)]
        time.sleep(1)
        for _ in range(2):
            with edge.configured(hold_seconds=HOLD + 1):
                pass
        assert not any(request.done() for request in held)
        edge.resume(name)
        assert [request.result().status for request in held] == [200] * 8


def test_a_spent_budget_is_a_503_that_says_when_to_come_back(edge: Edge) -> None:
    name = f"gateway-{edge.gateways}"
    edge.stop(name)
    try:
        with edge.configured(hold_seconds=2):
            began = time.monotonic()
            answer = edge.chat()
            assert 2 <= time.monotonic() - began < 10
        assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert edge.get("/v1/models").status == 200
    finally:
        edge.resume(name)
    assert edge.chat().status == 200


def test_what_finds_no_engine_waits_for_the_next_one(edge: Edge) -> None:
    """As after a crash: the gateway answers with errors until the switch ends it, and then one is gated."""
    name = f"gateway-{edge.gateways}"
    with ThreadPoolExecutor(16) as pool:
        under_way = [pool.submit(edge.chat, "[[delay=4]]") for _ in range(4)]
        time.sleep(1)
        edge.stop("engine", grace=0)
        late = [pool.submit(edge.chat, stream=stream) for stream in (False, True) for _ in range(4)]
        time.sleep(0.5)
        edge.stop(name)
        edge.resume("engine")
        time.sleep(5)
        requests = [*under_way, *late]
        assert not any(request.done() for request in requests)
        assert edge.asked() == []  # it is on its way through its gate
        assert counted(edge.counters("/metrics")) == 12
        edge.resume(name)
        assert [request.result().status for request in requests] == [200] * 12
        assert all(request.result().text.rstrip().endswith("data: [DONE]") for request in late[4:])
    assert len(edge.asked()) == 12  # none was asked twice


def test_what_is_asked_of_an_engine_past_a_gateway_that_fails_is_counted(edge: Edge) -> None:
    good = f"gateway-{edge.gateways}"
    edge.stop(good)
    bad = edge.start_gateway("http://127.0.0.1:9/v1/")
    try:
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(edge.chat, "[[tokens=20]][[pace=0.2]]", stream=True) for _ in range(2)]
            eventually(lambda: at_engine(edge.counters(caddyfile.UPSTREAMS_PATH)) == 2)
            assert all(answer.result().text.rstrip().endswith("data: [DONE]") for answer in asked)
        eventually(lambda: at_engine(edge.counters(caddyfile.UPSTREAMS_PATH)) == 0)
    finally:
        edge.stop(bad)
        docker("rm", edge.name(bad))
        edge.gateways -= 1
        edge.resume(good)
    assert edge.chat().status == 200


def test_an_engine_that_is_gone_is_a_502_that_a_client_retries(edge: Edge) -> None:
    edge.stop("engine", grace=0)
    try:
        answer = edge.chat()
        assert (answer.status, answer.error["code"]) == (502, "bad_gateway")
        assert "x-should-retry" not in answer.headers
    finally:
        edge.resume("engine")
    eventually(lambda: edge.chat().status == 200)
