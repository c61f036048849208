"""The certificate of a change, what may be freed after it, and what the switch asks of the GPU."""

import dataclasses
import fcntl
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from switch import certificate, gpu
from switch.certificate import markdown, short, text
from switch.docker import Docker, DockerError
from switch.gate import Answer, gpu_share, wholly_on_gpu
from switch.gc import Busy, collect
from switch.machine import Active, State, Transaction
from tests.parts.conftest import Serve
from tests.support.simulated_host import NEW, NEW_GATEWAY, OLD, OLD_GATEWAY, plan

STEPS = (("checking", 0.5), ("draining", 0.3), ("stopping", 0.2), ("loading", 20.0))


def transaction(**changed: Any) -> Transaction:
    change = Transaction("1", plan(NEW, gateway=NEW_GATEWAY), "commit", 1_800_000_000.0, 0)
    change.old_kind, change.old_plan, change.phase = "ollama", plan(OLD, gateway=OLD_GATEWAY), "committed"
    change.ended, change.held_seconds, change.most_waiting = change.began + 24, 21.04, 7
    change.steps = [{"phase": phase, "at": change.began, "seconds": seconds} for phase, seconds in STEPS]
    change.gates = [{"at": change.began, "engine": NEW, "stream": True, "tokens": 8, "seconds": 0.5}]
    return dataclasses.replace(change, **changed)


def test_a_certificate_says_what_changed_how_long_it_took_and_what_the_gate_saw() -> None:
    content = certificate.certificate(transaction())
    assert content["name"] == "20270115T080000Z-ollama-to-vllm"
    assert (content["from"]["container"], content["to"]["image"]) == (OLD, f"{NEW}:1")
    assert content["held"] == {"seconds": 21.0, "requests": 7}
    assert content["gate"] == [{"engine": NEW, "streamed": True, "tokens": 8, "seconds": 0.5, "rate": 16.0}]
    page = markdown(content)
    assert page.startswith("# ollama → vllm: committed\n")
    assert "24.0 s in all, by hold, held for 21.0 s, 7 requests at most." in page
    assert "| loading | 20.0 |" in page


def test_another_model_under_the_same_name_shows_by_its_weights() -> None:
    new, old = plan(NEW, gateway=NEW_GATEWAY), plan(OLD, gateway=OLD_GATEWAY)
    engine = dataclasses.replace(new.engine, weights="qwen2.5-coder-7b")
    change = transaction(old_plan=old, plan=dataclasses.replace(new, engine=engine))
    page = markdown(certificate.certificate(change))
    assert f"| weights | {old.engine.weights} | qwen2.5-coder-7b |" in page


def test_it_proposes_to_correct_a_loading_time_that_is_far_off_and_no_other() -> None:
    far = markdown(certificate.certificate(transaction()))
    assert "Loading took 20.0 s, and the catalogue expects 5.0 s" in far
    near = transaction(steps=[{"phase": "loading", "at": 0.0, "seconds": 5.9}])
    assert "catalogue" not in markdown(certificate.certificate(near))


def test_the_mode_is_the_way_that_was_taken_and_not_the_one_that_was_declared() -> None:
    declared = plan(NEW, "overlap", NEW_GATEWAY)
    held = certificate.certificate(transaction(plan=declared, way="hold", crowded="8.00 GiB + 8.00 GiB"))
    assert short(held).startswith(f"{held['name']}: committed by hold, held for 21.0 s")
    assert "Mode: hold, since 8.00 GiB + 8.00 GiB." in markdown(held)
    alone = certificate.certificate(transaction(plan=declared, way="hold"))
    assert "Mode: hold, since no engine answered that could have gone on meanwhile." in markdown(alone)
    both = certificate.certificate(transaction(plan=declared, way="overlap", held_seconds=None))
    assert ": committed by overlap, nothing held" in short(both)
    assert "Mode: overlap, since one at a time." in markdown(both), "the plan's own reason"
    gateway = certificate.certificate(transaction(plan=declared, way="gateway", held_seconds=None))
    assert ": committed with the engine that was there, nothing held" in short(gateway)
    assert "Mode: gateway, since the engine stays." in markdown(gateway)
    unbegun = certificate.certificate(transaction(plan=declared, way="", phase="failed"))
    assert ": failed by overlap" in short(unbegun)


def test_the_diff_is_that_of_the_gateways_config_and_of_the_routing() -> None:
    old = plan(OLD, gateway=OLD_GATEWAY)
    assert old.gateway
    gateway = dataclasses.replace(old.gateway, config='routing = ["ollama", "vllm"]\n')
    change = transaction(old_plan=dataclasses.replace(old, gateway=gateway))
    diff = certificate.certificate(change)["diff"]
    assert diff[3:5] == ['-routing = ["ollama", "vllm"]', "+x = 1"]
    assert diff[5] == "--- routing before" and diff[-2:] == [
        '-engines = ["ollama-1"]',
        '+engines = ["vllm-2"]',
    ]


def test_without_a_gateway_the_diff_is_that_of_the_routing_alone() -> None:
    new, old = plan(NEW, gateway=None), plan(OLD, gateway=OLD_GATEWAY)
    about = dataclasses.replace(new.about, gateway_image="")
    content = certificate.certificate(transaction(plan=dataclasses.replace(new, about=about), old_plan=old))
    assert content["diff"][0] == "--- routing before"
    assert "| gateway | gateway:1 | – |" in markdown(content)


def test_a_failed_change_says_so_and_a_first_one_comes_from_nothing() -> None:
    failed = certificate.certificate(transaction(phase="failed", error="vllm exited"))
    assert "It failed: vllm exited" in markdown(failed) and ": failed by hold" in short(failed)
    first = certificate.certificate(transaction(old_plan=None, old_kind="", held_seconds=None))
    assert markdown(first).startswith("# nothing → vllm") and "nothing held" in short(first)
    assert first["diff"] == []


def test_the_short_form_is_bound_to_the_whole() -> None:
    content = certificate.certificate(transaction())
    assert hashlib.sha256(text(content).encode()).hexdigest()[:12] in short(content)
    assert short({**content, "seconds": 1}) != short(content)


class Images(Docker):
    """A strict fake: knows these images, and which of them a container was made from."""

    def __init__(self, here: set[str], used: set[str]) -> None:
        super().__init__("changeover", "test", "/nowhere")
        self.here, self.used = here, used
        self.left: list[str] = []
        """Volumes of a monitor that nothing uses."""

    def call(self, method: str, url: str, body: Any = None, timeout: float = 15) -> Any:
        raise AssertionError(f"the fake has no {method} {url}")

    def has_image(self, image: str) -> bool:
        return image in self.here

    def in_use(self, image: str) -> bool:
        assert image in self.here
        return image in self.used

    def remove_image(self, image: str) -> None:
        if image in self.used:
            raise DockerError(409, "in use")
        self.here.remove(image)

    def weights(self) -> set[tuple[str, str]]:
        return {("vllm", "standby-1")}

    def left_volumes(self, roles: Iterable[str]) -> list[str]:
        assert set(roles) == {"history", "monitor"}
        return list(self.left)

    def remove_volume(self, name: str) -> None:
        self.left.remove(name)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    for folder in ("ollama/tiny-1", "ollama/old-1", "vllm/tiny-1", "vllm/standby-1"):
        home = tmp_path / "weights" / folder
        home.mkdir(parents=True)
        (home / ".complete").write_text("{}")
        (home / "file").write_bytes(b"x" * 1000)
    return tmp_path / "weights"


def state() -> State:
    return State(
        active=Active(plan(NEW, gateway=NEW_GATEWAY), "run 1", 1.0),
        back=plan(OLD, gateway=OLD_GATEWAY),
        images=["older:1", "used:1", "gone:1", f"{OLD}:1", f"{NEW}:1", "gateway:1"],
    )


def folders(weights: Path) -> set[str]:
    return {str(each.relative_to(weights)) for each in weights.glob("*/*")}


def test_gc_names_first_and_frees_only_when_told(weights: Path, tmp_path: Path) -> None:
    docker = Images({"older:1", "used:1", "gateway:1", f"{OLD}:1", f"{NEW}:1"}, {"used:1"})
    said: list[str] = []
    collect(state(), docker, weights, tmp_path, said.append, free=False)
    assert "can go weights ollama/old-1: 0.00 GiB" in said and "can go image older:1" in said
    assert len(folders(weights)) == 4 and "older:1" in docker.here
    collect(state(), docker, weights, tmp_path, said.append, free=True)
    assert folders(weights) == {"ollama/tiny-1", "vllm/tiny-1", "vllm/standby-1"}
    assert docker.here == {"used:1", "gateway:1", f"{OLD}:1", f"{NEW}:1"}
    said.clear()
    collect(state(), docker, weights, tmp_path, said.append, free=True)
    assert said[-1] == "nothing to free" and "kept   weights ollama/tiny-1: the way back" in said


def test_gc_frees_old_images_of_edge_and_switch_and_keeps_those_of_now(weights: Path, tmp_path: Path) -> None:
    old = state()
    old.images = ["edge:1", "edge:2", "switch:1", "switch:2"]
    assert old.active
    about = dataclasses.replace(old.active.plan.about, images=("edge:2", "switch:2"))
    old.active.plan = dataclasses.replace(old.active.plan, about=about)
    docker = Images(set(old.images), set())
    collect(old, docker, weights, tmp_path, lambda _: None, free=True)
    assert docker.here == {"edge:2", "switch:2"}


def test_gc_frees_what_a_monitor_has_left(weights: Path, tmp_path: Path) -> None:
    docker = Images(set(), set())
    docker.left = ["p-s-monitor-history"]
    said: list[str] = []
    collect(state(), docker, weights, tmp_path, said.append, free=False)
    assert "can go volume p-s-monitor-history: the stack has no monitor" in said and docker.left
    collect(state(), docker, weights, tmp_path, said.append, free=True)
    assert not docker.left


def test_gc_frees_nothing_while_something_is_under_way(weights: Path, tmp_path: Path) -> None:
    busy = state()
    busy.transaction = transaction(phase="loading")
    with pytest.raises(Busy, match="a change is under way"):
        collect(busy, Images(set(), set()), weights, tmp_path, print, free=True)
    with (tmp_path / "switch-x.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="being fetched"):
            collect(state(), Images(set(), set()), weights, tmp_path, print, free=True)
    assert len(folders(weights)) == 4


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A double of NVIDIA's tool, first on PATH."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_free_gpu_memory_is_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "--query-gpu=memory.free,memory.total --format=csv,noheader,nounits"
    smi(tmp_path, monkeypatch, f"""[ "$*" = '{expected}' ] && printf '14912, 15360\\n200, 15360\\n'""")
    assert gpu.memory() == [(14912 * 2**20, 15360 * 2**20), (200 * 2**20, 15360 * 2**20)]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Failed to initialize NVML'; exit 18", "Failed to initialize NVML"),
        ("echo '[N/A], [N/A]'", "N/A"),
        ("true", "no GPU"),
    ],
)
def test_a_driver_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    smi(tmp_path, monkeypatch, script)
    with pytest.raises(gpu.GpuError, match=said):
        gpu.memory()


def test_a_gpu_that_containers_have_lost_is_said_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(tmp_path, monkeypatch, "echo 'Failed to initialize NVML: Unknown Error'; exit 255")
    with pytest.raises(gpu.GpuError) as error:
        gpu.memory()
    assert (
        "nvidia-smi failed: Failed to initialize NVML: Unknown Error. Containers on this host have lost"
        in (str(error.value))
    )
    assert "native.cgroupdriver=cgroupfs" in str(error.value)
    assert gpu.meaning("CUDA out of memory") == ""


@pytest.mark.parametrize(
    ("models", "ok", "said"),
    [
        ([{"size": 5 * 2**30, "size_vram": 5 * 2**30}], True, ""),
        ([{"size": 5 * 2**30, "size_vram": 2**30}], False, "1.00 of 5.00 GiB of the model are on the GPU"),
        ([{"size": 5 * 2**30, "size_vram": 0}], False, "0.00 of 5.00 GiB"),
        ([], False, "no loaded model"),
    ],
)
def test_a_model_that_is_not_wholly_on_the_gpu_fails_the_gate(
    serve_json: Serve, models: list[dict[str, int]], ok: bool, said: str
) -> None:
    port = serve_json({"/api/ps": {"models": models}})
    answer = wholly_on_gpu(Answer(True, facts={"tokens": 8}), "127.0.0.1", port)
    assert answer.ok == ok and said in answer.text
    share = gpu_share("127.0.0.1", port)
    assert share is not None and (share == 1) is ok


def test_where_ollama_says_nothing_nothing_is_said_of_the_gpu(serve_json: Serve) -> None:
    assert gpu_share("127.0.0.1", serve_json({"/api/ps": {"error": "loading"}})) is None
    assert gpu_share("127.0.0.1", 1) is None
