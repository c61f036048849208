"""What is written for a reader is read as what it was, and the texts that states keep are what they were."""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import get_args

import pytest

from common import ROOT
from components import facts, naming
from components.cutover_mode import choose
from components.docker_host import DockerHost
from components.facts import MemoryKind, Variable
from components.gpu_memory import KINDS, EngineKind
from components.waiting import wait
from stacks.blueprint import blueprint_of
from switch import answers
from switch.answers import NONE, LiveEngine, live_in
from tests.support.recorder import Recorder
from tests.unit import test_program
from tests.unit.test_program import build, settings

RANDOM = random.Random(20)
HEX = "0123456789abcdef"


def content() -> str:
    return "".join(RANDOM.choices(HEX, k=8))


def test_memory_is_read_as_it_was_written_to_two_digits() -> None:
    for _ in range(500):
        sizes = [RANDOM.choice((0, RANDOM.randrange(1, 2**40))) for _ in range(4)]
        needs: dict[MemoryKind, tuple[int, int]] = {"GPU": (sizes[0], sizes[1]), "RAM": (sizes[2], sizes[3])}
        read = facts.memory_in(facts.memory(needs))
        assert read == {
            what: (round(need / 2**30, 2), round(there / 2**30, 2) if there else None)
            for what, (need, there) in needs.items()
            if need
        }
    assert facts.memory({"GPU": (7 * 2**30, 0), "RAM": (2**29, 2**34)}) == (
        "GPU 7.00 of unknown GiB, RAM 0.50 of 16.00 GiB"
    )
    assert facts.memory_in(None) == facts.memory_in("") == {}, "a version before it did not say it"


def test_tenants_are_read_as_they_were_written() -> None:
    for _ in range(100):
        names = sorted(
            {f"{RANDOM.choice('aZ9')}{content()}.-_{content()}" for _ in range(RANDOM.randrange(4))}
        )
        assert facts.tenants_in(facts.tenants(names)) == set(names)
    assert facts.tenants(["acme", "zoo"]) == "acme, zoo"
    assert facts.tenants_in(None) == set()


def test_nodes_are_read_as_they_were_written() -> None:
    for count in range(4):
        names = {f"node-{content()}.internal" for _ in range(count)}
        assert facts.nodes_in(facts.nodes(names)) == names
    assert facts.nodes(["b", "a"]) == "a, b"
    assert facts.nodes_in(None) == facts.nodes_in("") == set()


def test_what_is_gone_from_a_cluster_and_what_there_is_are_read_as_they_were_written() -> None:
    for count in range(4):
        names = [f"fleet-{content()}-{number}" for number in range(count)]
        assert facts.lost_in(facts.lost(count, names)) == (count, names)
        assert facts.fleet_in(facts.fleet(", ".join(names), names)) == (", ".join(names), names)
    assert facts.lost_in(None) == facts.lost_in("") == (0, []), "a version before it did not say it"
    assert facts.fleet_in(None) == ("", [])


def lives() -> Iterator[LiveEngine]:
    for _ in range(100):
        engine = RANDOM.choice((NONE, f"changeover-{content()}-vllm-{content()}-{content()[:7]}"))
        since = RANDOM.randrange(10**6) if engine == NONE else 0
        yield LiveEngine(engine=engine, since=since)
        yield LiveEngine(engine=engine, damaged=f"2026-11-29 0{RANDOM.randrange(10)}:00:00 UTC")


def test_what_serves_is_read_as_it_was_said() -> None:
    for each in lives():
        assert live_in(each.text) == each, each.text
    assert live_in(answers.UNREACHABLE) is None
    texts = [
        LiveEngine(engine="e").text,
        LiveEngine(engine=NONE, since=7).text,
        LiveEngine(engine=NONE, damaged="then").text,
    ]
    assert texts == ["e", "none since change 7", "the journal was damaged at then; none"]


def test_what_was_edited_is_known_from_what_was_not() -> None:
    digest = content() * 8
    assert answers.is_edited(answers.edited(digest)) and answers.is_edited(answers.GONE)
    assert not answers.is_edited(answers.AS_DECLARED) and not answers.is_edited(None)
    assert answers.edited(digest) == f"edited in place {digest[:12]}"
    for part in answers.LOOKED_AT:
        for said in (answers.edited(digest), answers.GONE, answers.AS_DECLARED):
            assert answers.looked(answers.line(part, said) + "\n")[part] == said


def test_the_certificate_is_the_last_of_what_is_said_of_a_change() -> None:
    short = "none-to-ollama: committed by hold"
    said = f"gateway answers\nchange 3 of this stack\n{answers.certified(short)}\n"
    assert answers.certificate_in(said) == short and said.endswith(f"\ncertificate: {short}\n")


def test_an_engine_and_its_weights_are_known_from_their_names() -> None:
    for kind in KINDS:
        name = naming.engine(kind, content())
        for text in (name, f"changeover-my-stack-{name}", naming.child(name, "weights"), f"{name}-0a1b2c3"):
            assert naming.engine_in(text) == (kind, name)
        assert naming.without_content(f"changeover-s-{name}-weights") == f"changeover-s-{kind}-weights"
        assert naming.engine_in(naming.child(kind, "weights")) is None, "the volume is of the kind"
    for model in ("tiny", "qwen-2.5-coder-7b"):
        digest = content()
        assert naming.of_folder(naming.folder(model, digest)) == (model, digest)
    assert naming.of_folder("") == ("", "")


@pytest.mark.parametrize(
    ("values", "mode", "by_hold"),
    [({}, "hold", ()), ({"hostMemoryGiB": 7}, "overlap", ("vllm",)), ({"hostMemoryGiB": 16}, "overlap", ())],
)
def test_a_review_knows_the_waits_that_the_program_says(
    values: dict[str, object], mode: str, by_hold: tuple[str, ...]
) -> None:
    checked = settings(**values)
    cutover = choose(checked.cutover, checked.engine, checked.load, checked.bounds)
    blueprint = blueprint_of(checked)
    assert cutover.mode == mode
    for kind in KINDS:
        flip, same = (waits.get(kind) for waits in (blueprint.foreseen.waits, blueprint.foreseen.same_waits))
        assert flip == (cutover.waits[kind].expected if mode == "hold" else None)
        said = f"wait in a change to {kind}: {flip or 0:.0f} s = "
        assert any(line.startswith(said) for line in blueprint.lines) == (mode == "hold")
        one = wait(kind, checked.load, checked.bounds, old=kind)
        assert same == (one.expected if kind in by_hold else None)
        said = rf"other settings of {kind}: by hold, since .*; wait: {same or 0:.0f} s = "
        assert any(re.match(said, line) for line in blueprint.lines) == (kind in by_hold)


@pytest.mark.parametrize("found_by", [(), ("ollama",), ("vllm",), ("ollama", "vllm")])
def test_a_review_knows_where_only_one_engine_finds_the_calls_of_tools(
    found_by: tuple[EngineKind, ...],
) -> None:
    checked = settings(images="public", model="qwen-2.5-coder-0.5b")
    assert checked.model.tools
    model = replace(checked.model, tools=replace(checked.model.tools, found_by=found_by))
    plan = replace(blueprint_of(checked), settings=replace(checked, model=model))
    (line,) = [line for line in plan.lines if line.startswith("tools: ")]
    assert plan.foreseen.tools == (line if len(found_by) == 1 else "")
    assert line.startswith("tools: only ") == (len(found_by) == 1)


NAMES = {
    "identity": [],
    "guard": ["OWNER", "PROJECT", "STACK"],
    "proxy-files": ["ARCHIVE", "CODE", "IMAGE", "LOCK", "LOGS", "OWNER", "PYTHON", "VOLUME"],
    "proxy-ready": ["ASK", "PROXY"],
    "keys-step": ["SEEN", "SWITCH", "TENANTS"],
    "prepare-step": ["CUTOVER", "ENGINE", "MEMORY", "ROUTING", "STACK", "SWITCH"],
    "commit-step": ["ENGINE", "GATEWAY", "LIVE", "STACK", "SWITCH"],
    "edge-configuration": ["APPLY", "CADDYFILE", "EDGE", "EDGE_ID", "SEEN"],
    "edge-clients": ["EDGE", "EDGE_ID", "NETWORK", "NETWORK_ID"],
    "monitor-files": ["CONFIG", "CONTENT", "HISTORY", "IMAGE", "OWNER"],
    "ollama-weights": ["SWITCH", "WEIGHTS"],
    "vllm-weights": ["SWITCH", "WEIGHTS"],
}
"""Name of each step → the keys of its environment, as the states of stacks have them, but for DOCKER_HOST."""
SHOWN = {"CUTOVER", "MEMORY", "ROUTING", "GATEWAY", "TENANTS", "WEIGHTS", "CONTENT", "EDGE_ID", "NETWORK_ID"}
"""Of these, what may be there for a reader alone, or to have a step run again."""


def test_names_and_keys_are_those_that_states_have_and_what_a_step_is_told_it_reads() -> None:
    recorder = Recorder.start("local")
    build(settings(monitor=True))
    found = {}
    for name, step in recorder.of("Command").items():
        told = {*step.get("environment", {})}
        assert not told or told >= {"DOCKER_HOST"}
        found[naming.without_content(name)] = sorted(told - {"DOCKER_HOST"})
        program = " ".join(str(step.get(verb, "")) for verb in ("create", "update", "delete"))
        files = re.findall(r"sh (\S+\.sh)", program)
        text = program + "".join((ROOT / file).read_text() for file in files) + str(step.get("environment"))
        unread = {key for key in told - {"DOCKER_HOST"} if not re.search(rf"\${{?{key}\b", text)}
        assert unread <= SHOWN, f"{name}: {unread}"
    assert found == NAMES


def test_a_step_whose_volume_was_lost_is_told_so_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder.start("local")
    monkeypatch.setattr(test_program, "DockerHost", partial(DockerHost, again={"proxy-files": "2"}))
    build(settings())
    steps = recorder.of("Command").items()
    told = {name: facts.variable(step, "AGAIN") for name, step in steps if facts.variable(step, "AGAIN")}
    assert told == {"proxy-files": "2"}


def test_no_key_is_listed_that_no_step_has() -> None:
    files = [file for file in (ROOT / "components").rglob("*.py") if file.name != "facts.py"]
    written = "".join(file.read_text() for file in files)
    keys = {key for some in get_args(Variable) for key in get_args(some) or (some,)}
    assert len(keys) > 40 and not [key for key in keys if f'"{key}"' not in written]
