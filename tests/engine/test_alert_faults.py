"""Every alert, fired by its fault on one running stack, and none of them by changes of the engine.

Switch, proxy, store and vmalert are real; engines, gateway, card and the host's memory are test doubles. All
that an alert waits for is ten times shorter (`tests.support.monitored`), so that ten changes are a stricter
test than they would be otherwise. `make test` has the quickest of it, and `make test-long` the rest.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from components.monitor import STORE_ALIAS
from monitor.alerts import alerts
from monitor.panels import pages
from switch.shared import ALERTS_ALIAS
from tests.support.monitored import Monitored, crash, watched, without_data
from tests.support.switch_stack import GATEWAY_IMAGE, NETWORK, PREFIX, SWITCH, build_gateway, docker, wait

pytestmark = pytest.mark.engine

CHANGES = 10


@pytest.fixture(scope="module")
def stack() -> Iterator[Monitored]:
    build_gateway()
    stack = Monitored()
    yield stack
    stack.end()
    docker("rmi", "-f", GATEWAY_IMAGE)


# the faults: each is there while its context is


@contextmanager
def slow_full_and_hot(stack: Monitored) -> Iterator[None]:
    """Six users with long answers, each of whom waits for 5 s until the engine has read the prompt; and a
    host and a card that are nearly at their ends."""
    stack.to("vllm")
    says = {"temperature.gpu": 91, "memory.used": 15300, "memory.free": 60}
    with (
        stack.crowd(6, 400),
        stack.ill(stack.engine, slow=5),
        stack.card(says),
        stack.little_disk(),
        stack.little_memory(),
    ):
        yield


@contextmanager
def admits_nothing(stack: Monitored) -> Iterator[None]:
    """vLLM is healthy and takes up no request."""
    stack.to("vllm")
    with stack.ill(stack.engine, closed=""):
        yield


@contextmanager
def answers_errors(stack: Monitored) -> Iterator[None]:
    with stack.ill(stack.engine, failing=""):
        yield


@contextmanager
def never_starts_again(stack: Monitored) -> Iterator[None]:
    """The engine is killed in the middle of answers, and ends at each start."""
    with stack.crowd(4, 400), stack.ill(stack.engine, exits=""):
        wait(lambda: bool(stack.values("sum(changeover_running) >= 4")), 30, "nobody is at the engine")
        crash(stack.engine)
        yield


@contextmanager
def changed_to_what_never_listens(stack: Monitored) -> Iterator[None]:
    kind = "ollama" if stack.engine.startswith("vllm") else "vllm"
    name, _ = stack.new_names(kind)
    stack.make_engine(name, mode="silent")
    stack.tell("prepare", stack.plan(name))
    with ExitStack() as later:
        later.callback(docker, "rm", "-f", f"{PREFIX}-{name}")
        code, said = stack.follow(90)
        assert code == 1, said
        yield


@contextmanager
def leaves_the_card(stack: Monitored) -> Iterator[None]:
    """Ollama puts a part of its model on the CPU while it serves."""
    stack.to("ollama")
    with stack.ill(stack.engine, spilled=0.6):
        yield


@contextmanager
def loses_the_card(stack: Monitored) -> Iterator[None]:
    with stack.card({"error": "Failed to initialize NVML: Unknown Error"}):
        yield


@contextmanager
def switch_stands_still(stack: Monitored) -> Iterator[None]:
    with stack.paused("switch"):
        yield


@contextmanager
def without_a_proxy(stack: Monitored) -> Iterator[None]:
    docker("stop", "-t", "2", f"{PREFIX}-proxy-1")
    try:
        yield
    finally:
        docker("start", f"{PREFIX}-proxy-1")


@contextmanager
def journal_cut_short(stack: Monitored) -> Iterator[None]:
    cut = "import os; f = '/journal/state.json'; os.truncate(f, os.stat(f).st_size // 2)"
    docker("exec", SWITCH, "python3", "-c", cut)
    crash("switch")
    yield
    wait(stack.settled, 60)


@dataclass(frozen=True)
class Fault:
    """What is done, and the alerts that it fires within so many seconds; `also` may fire of it or not."""

    bring: Callable[[Monitored], AbstractContextManager[None]]
    fires: Set[str]
    within: float = 60
    also: Set[str] = field(default_factory=frozenset)

    def __str__(self) -> str:
        return self.bring.__name__


FAULTS = (
    Fault(
        slow_full_and_hot,
        {"SlowFirstByte", "KvCacheFull", "GpuHot", "GpuFull", "DiskNearlyFull", "MemoryNearlyFull"},
        within=240,  # nobody may have been held for 90 s, before what is slow is not a change's
    ),
    Fault(admits_nothing, {"VllmAdmitsNothing", "NothingFinishes", "Silent"}),
    Fault(answers_errors, {"Errors"}),
    Fault(
        never_starts_again,
        {"AnswersCut", "HeldWithoutChange", "HoldNearItsBudget", "NoGatedEngine", "SwitchInTrouble"},
    ),
    Fault(
        changed_to_what_never_listens, {"HoldLongerThanExpected", "ChangeFailed"}, also={"HoldNearItsBudget"}
    ),
    Fault(leaves_the_card, {"ModelLeftGpu"}),
    Fault(loses_the_card, {"GpuLost"}),
    Fault(switch_stands_still, {"NoSwitch", "TargetDown"}),
    Fault(without_a_proxy, {"NoProxy"}, also={"TargetDown"}),
    Fault(journal_cut_short, {"JournalDamaged"}),
)


def test_every_alert_has_a_fault() -> None:
    assert set().union(*(fault.fires for fault in FAULTS)) == {alert.name for alert in alerts(watched())}


@pytest.mark.long
def test_none_fires_of_ten_changes_under_load(stack: Monitored) -> None:
    began = time.time()
    for number in range(CHANGES):
        stack.to("ollama" if number % 2 else "vllm")
        held = stack.status()["last"]["held_seconds"]
        print(
            f"change {number + 1}: held for {held:.1f} s, {time.time() - began:.0f} s after the first began"
        )
    wait(lambda: bool(stack.values("changeover_commits_total")), 30)
    time.sleep(15)  # what it has of the last one is looked at
    assert stack.fired(began) == {}
    assert stack.lost() == []


@pytest.mark.long
@pytest.mark.parametrize("how", ["killed", "full", "slow"])
def test_a_monitor_that_is_ill_in_a_change_changes_nothing_for_a_request(stack: Monitored, how: str) -> None:
    assert stack.lost() == []
    with ExitStack() as over:
        if how == "slow":
            over.enter_context(stack.paused("monitor", "alerts"))
        elif how == "full":
            over.enter_context(stack.full_history())
            wait(stack.takes_nothing, 30, "the store does not notice")
        else:
            for number, role in enumerate(("monitor", "alerts")):
                timer = threading.Timer(0.5 + 0.5 * number, crash, [role])
                over.callback(timer.join)
                timer.start()
        stack.to("ollama" if stack.engine.startswith("vllm") else "vllm")
        assert stack.lost() == []
    wait(stack.sees_all, 120, "the store does not scrape again")


QUICK = (answers_errors, never_starts_again, leaves_the_card, loses_the_card)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(each, id=str(each), marks=() if each.bring in QUICK else pytest.mark.long)
        for each in FAULTS
    ],
)
def test_a_fault_fires_its_alerts_and_no_others(stack: Monitored, fault: Fault) -> None:
    wait(stack.settled, 60)
    wait(stack.sees_all, 60)
    before, began = stack.firing(), time.time()
    with fault.bring(stack):
        end = time.monotonic() + fault.within
        while missing := fault.fires - stack.fired(began).keys():
            assert time.monotonic() < end, f"{sorted(missing)} did not fire"
            time.sleep(0.5)
        print(f"{fault}: {sorted(fault.fires)} within {time.time() - began:.0f} s")
    # not `serves`: what is live is said otherwise while the journal is damaged
    wait(stack.settled, 90, f"nothing serves after {fault}")
    expected = fault.fires | fault.also | before
    assert {name: of for name, of in stack.fired(began).items() if name not in expected} == {}


@pytest.mark.parametrize(("role", "alias"), [("monitor", STORE_ALIAS), ("alerts", ALERTS_ALIAS)])
def test_a_monitor_that_is_taken_off_the_network_is_put_back_and_sees_all_again(
    stack: Monitored, role: str, alias: str
) -> None:
    wait(stack.sees_all, 60)
    name, started = f"{PREFIX}-{role}", stack.started(role)
    wait(lambda: name in kept_endpoints(), 30, "the switch has not seen it")
    stack.lost()  # what the tests before this one cost

    def networks() -> dict[str, Any]:
        return dict(json.loads(docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", name)))

    docker("network", "disconnect", NETWORK, name)
    wait(lambda: NETWORK in networks(), 30, "it is not put back")
    assert alias in networks()[NETWORK]["Aliases"]
    assert stack.status()["healed"]["what"] == f"{name} was taken off the network {NETWORK}, and was put back"
    wait(stack.sees_all, 60, "it sees nothing")
    assert stack.started(role) == started
    assert stack.lost() == []


def kept_endpoints() -> dict[str, Any]:
    """What the journal has of the containers' places on the network."""
    return dict(json.loads(docker("exec", SWITCH, "cat", "/journal/state.json"))["endpoints"])


def test_no_alert_goes_on_once_all_is_well_again(stack: Monitored) -> None:
    stack.to("vllm" if stack.engine.startswith("ollama") else "ollama")
    wait(lambda: not stack.firing(), 90, "one goes on")


def test_every_query_of_every_panel_returns_data_where_there_is_a_card(stack: Monitored) -> None:
    """What vLLM itself exposes is in `test_monitor`, on a stack with vLLM and without a card."""
    stack.to("ollama")  # vLLM does not say where its model is
    shown = pages(replace(watched(), vllm=False))
    assert any(page.name == "6-gpu" for page in shown)

    def empty() -> list[str]:
        return without_data(shown, stack.lines)

    wait(lambda: not empty(), 40, f"these have no data: {empty()}")
