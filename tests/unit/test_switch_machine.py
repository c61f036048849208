"""The switch's state machine: rule by rule, and then with random kills at every step."""

import copy
import dataclasses
import random
from itertools import pairwise

import pytest

from components.plan import times
from components.waiting import Bounds
from switch.certificate import certificate
from switch.machine import (
    UNDER_WAY,
    Abandoned,
    Action,
    ActionFinished,
    Active,
    ChangeRequested,
    Damage,
    Followed,
    JournalWriteFailed,
    Occupied,
    Refused,
    StackReleased,
    Started,
    State,
    answer,
)
from switch.machine.phases import FORMER_NAME_SECONDS, PHASES
from switch.machine.transitions import LEASED, STEPS
from switch.machine.turn import Turn
from switch.machine.views import route
from switch.plan import Memory, Plan
from tests.support.simulated_host import (
    NEW,
    NEW_GATEWAY,
    OLD,
    OLD_GATEWAY,
    OTHER_PROXY,
    PROXY,
    SECONDS,
    Box,
    Cutover,
    Requests,
    SimulatedHost,
    before_proxies,
    plan,
)


@pytest.fixture
def host() -> SimulatedHost:
    return SimulatedHost(random.Random(7))


def old_serves(host: SimulatedHost) -> bool:
    return host.serves() == ([OLD], [OLD_GATEWAY]) and host.settled()


def test_a_flip_holds_drains_stops_loads_gates_and_releases_in_this_order(host: SimulatedHost) -> None:
    assert host.flip() == 0
    assert host.serves() == ([NEW], [NEW_GATEWAY])
    preparing = ["checking", "draining", "stopping", "loading", "prepared"]
    assert host.phases() == [*preparing, "starting", "retiring", "committed"]
    assert host.held() and host.state.last and len(host.state.last.gates) == 3
    assert host.most_engines == 1


def test_a_prepare_by_hold_ends_with_how_long_requests_wait_if_it_goes_no_further(
    host: SimulatedHost,
) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0 and host.holds()
    said = host.lines().splitlines()[-1]
    assert said == (
        "requests stay held until the change goes on; if it is interrupted now, for 30 s at most and until "
        "ollama has loaded again (60 s at most)"
    )
    began = host.now
    assert host.run(200, lambda: not host.holds()) and host.now - began < 30 + 60


@pytest.mark.parametrize(("cutover", "to"), [("overlap", NEW), ("hold", OLD)])
def test_a_prepare_for_which_no_request_waits_does_not_speak_of_it(cutover: Cutover, to: str) -> None:
    host = SimulatedHost(random.Random(7), overlap=cutover == "overlap")
    assert host.flip(cutover, to) == 0 and "held" not in host.lines()


def test_a_change_that_goes_through_at_once_does_not_speak_of_an_interruption(host: SimulatedHost) -> None:
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    assert host.follow() == 0 and "loading" in host.phases() and "interrupted" not in host.lines()


def test_an_overlap_never_stops_the_old_engine_before_the_new_gateway_answers() -> None:
    host = SimulatedHost(random.Random(7), overlap=True)
    assert host.flip("overlap") == 0
    assert host.serves() == ([NEW], [NEW_GATEWAY])
    assert host.most_engines == 2
    assert host.phases()[:3] == ["checking", "loading", "prepared"] and not host.held()


def same_kind(host: SimulatedHost) -> str:
    host.boxes["stack-ollama-3"] = Box("stack-ollama-3", "engine")
    return "stack-ollama-3"


@pytest.mark.parametrize("engine", [NEW, "stack-ollama-3"])
def test_an_overlap_for_which_there_is_no_room_goes_one_at_a_time_and_says_why(
    host: SimulatedHost, engine: str
) -> None:
    same_kind(host)
    host.ask("prepare", plan(engine, "tight"))
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(engine, "tight", NEW_GATEWAY))
    assert host.follow() == 0
    assert host.serves() == ([engine], [NEW_GATEWAY]) and host.most_engines == 1
    assert "need 8.00 GiB + 8.00 GiB, and there are only 14.00 GiB of the host's RAM" in host.lines()
    assert "draining" in host.phases()
    last = certificate(host.state.last) if host.state.last else {}
    assert last["mode"] == "hold" and "8.00 GiB + 8.00 GiB" in last["reason"]


def test_the_memory_of_each_gpu_decides_as_well(host: SimulatedHost) -> None:
    wanted = plan(same_kind(host), "overlap", gpu_bytes=int(7.34 * 2**30))
    memory = Memory(gpu=int(14.56 * 2**30), host=0)
    assert host.state.active
    host.state.active.plan = plan(OLD, gateway=OLD_GATEWAY, gpu_bytes=int(7.36 * 2**30))
    host.ask("prepare", dataclasses.replace(wanted, memory=memory))
    assert host.follow() == 0 and host.most_engines == 1
    assert "need 7.36 GiB + 7.34 GiB, and there are only 14.56 GiB on each GPU" in host.lines()


def test_an_overlap_that_the_settings_insist_on_is_refused_without_room_and_nothing_is_drained(
    host: SimulatedHost,
) -> None:
    runs = host.boxes[OLD_GATEWAY].runs
    assert host.state.active
    host.state.active.plan = plan(OLD, "overlap", gateway=OLD_GATEWAY)
    host.ask("prepare", plan(same_kind(host), "tight", insist=True))
    assert host.follow() == 1 and old_serves(host)
    assert host.boxes[OLD_GATEWAY].runs == runs and "draining" not in host.phases()
    assert "8.00 GiB + 8.00 GiB" in host.lines() and "pulumi config set cutover auto" in host.lines()
    host.boxes[OLD].running, host.boxes[OLD].mode = False, "exits"
    host.run(5)
    host.ask("prepare", plan("stack-ollama-3", "tight", insist=True))
    assert host.follow() == 0, "nothing serves, so there is nothing to overlap with"


def test_the_first_overlap_after_a_hold_holds_once_more_where_there_is_no_room(host: SimulatedHost) -> None:
    assert host.state.active and host.state.active.plan.cutover == "hold"
    host.ask("prepare", plan(same_kind(host), "tight", insist=True))
    assert host.follow() == 0 and host.most_engines == 1
    assert host.state.transaction and host.state.transaction.crowded and host.held()


def test_an_overlap_whose_old_engine_is_broken_goes_one_at_a_time() -> None:
    host = SimulatedHost(random.Random(7))
    host.boxes[OLD].running, host.boxes[OLD].mode = False, "exits"
    assert host.flip("overlap") == 0
    assert host.serves() == ([NEW], [NEW_GATEWAY])


def test_the_new_engine_starts_when_the_driver_has_given_the_memory_back(host: SimulatedHost) -> None:
    host.gpu_bytes, host.gpu_free = 8 * 2**30, 2 * 2**30
    host.ask("prepare", plan(gpu_bytes=host.gpu_bytes))
    assert not host.run(8, lambda: host.boxes[NEW].running)
    host.gpu_free = 15 * 2**30
    assert host.run(5, lambda: host.boxes[NEW].running)


def test_memory_that_is_never_free_leads_back_and_says_what_to_look_at(host: SimulatedHost) -> None:
    host.gpu_bytes, host.gpu_free = 8 * 2**30, 2 * 2**30
    assert host.flip() == 1
    assert old_serves(host)
    assert "needs 8.00 GiB" in host.lines() and "2.00 GiB are free" in host.lines()
    assert "nvidia-smi" in host.lines()


def test_an_overlap_whose_engine_does_not_come_up_leads_to_hold_as_well(host: SimulatedHost) -> None:
    host.gpu_bytes, host.gpu_free = 8 * 2**30, 2 * 2**30
    assert host.flip("overlap") == 1
    assert old_serves(host)
    assert "`pulumi config set cutover hold`" in host.lines()
    assert host.flip("hold") == 1
    assert "cutover" not in host.lines()


def test_what_serves_is_brought_back_even_where_the_driver_can_not_be_asked(host: SimulatedHost) -> None:
    assert host.state.active
    host.state.active.plan = plan(OLD, gateway=OLD_GATEWAY, gpu_bytes=8 * 2**30)
    host.gpu_free, host.boxes[OLD].running = 0, False
    assert host.run(60, lambda: old_serves(host))


def test_an_engine_under_the_floor_of_tokens_per_second_is_not_preferred(host: SimulatedHost) -> None:
    host.token_seconds = 0.6
    assert host.flip() == 1
    assert old_serves(host)
    assert "vllm is too slow: it reached 1.7 tokens per second" in host.lines()
    assert "gateTokensPerSecond" in host.lines()


def test_a_slow_engine_that_serves_already_is_brought_back_all_the_same(host: SimulatedHost) -> None:
    host.token_seconds, host.boxes[OLD].running = 0.6, False
    assert host.run(60, lambda: old_serves(host))


def another_ollama(host: SimulatedHost, loads: float) -> str:
    name = same_kind(host)
    host.boxes[name].loads = loads
    return name


def test_an_ollama_may_load_in_its_first_completion_as_long_as_an_engine_may_load(
    host: SimulatedHost,
) -> None:
    host.ask("prepare", plan(another_ollama(host, loads=50)))
    assert host.follow() == 0, host.lines()
    assert "loading ollama … 45 s" in host.lines()


def test_an_ollama_that_loads_for_too_long_leads_back_in_time_and_one_that_served_comes_back(
    host: SimulatedHost,
) -> None:
    host.boxes[OLD].loads = 50
    host.ask("prepare", plan(another_ollama(host, loads=70)))
    assert host.follow() == 1 and "ollama was not ready after 60 s" in host.lines()
    assert old_serves(host) and host.boxes[OLD].loads == 0


def test_only_the_first_completion_of_an_ollama_may_take_long(host: SimulatedHost) -> None:
    seconds = dict[str, list[float]]()
    takes = host.takes

    def noted(action: Action) -> float:
        if action.do == "probe":
            seconds.setdefault(action.container, []).append(action.seconds)
        return takes(action)

    host.takes = noted  # type: ignore[method-assign]
    host.boxes[NEW].loads = 20
    assert host.flip() == 1 and "vllm failed its gate" in host.lines()
    assert seconds[NEW] == [0, 0, 0]
    assert 50 < seconds[OLD][0] <= 60 and seconds[OLD][1:] == [0, 0]


def test_the_requests_that_were_held_are_counted(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    assert host.run(6, lambda: host.phase() == "loading")
    other = host.another_proxy()
    for here, there in ((3, 0), (9, 11), (4, 9)):
        host.proxies[PROXY].waiting, other.waiting = here, there
        host.apply(host.tick())
    assert host.state.transaction and host.state.transaction.most_waiting == 20


def test_the_way_back_is_what_served_before_whatever_failed_in_between(host: SimulatedHost) -> None:
    host.boxes[NEW].mode = "error"
    assert host.flip() == 1
    host.boxes[NEW].mode = "good"
    host.boxes.pop(NEW_GATEWAY, None)
    assert host.flip() == 0
    assert host.state.back and host.state.back.engine.container == OLD


def test_every_image_that_a_change_was_asked_with_is_noted_once_though_it_failed(host: SimulatedHost) -> None:
    host.boxes[NEW].mode = "error"
    wanted = plan()
    about = dataclasses.replace(wanted.about, images=("edge:1", "gateway:1"))
    for _ in range(2):
        host.ask("prepare", dataclasses.replace(wanted, about=about))
        host.run(600, lambda: host.phase() == "failed")
    assert host.state.images == ["stack-vllm-2:1", "gateway:1", "edge:1"]


def test_a_failed_check_touches_nothing(host: SimulatedHost) -> None:
    host.check_text = "the weights are not there"
    runs = host.boxes[OLD_GATEWAY].runs, host.boxes[OLD].runs
    assert host.flip() == 1
    assert old_serves(host) and runs == (host.boxes[OLD_GATEWAY].runs, host.boxes[OLD].runs)
    assert "the weights are not there" in host.lines() and "serves, as before" in host.lines()


@pytest.mark.parametrize("mode", ["exits", "error", "silent"])
@pytest.mark.parametrize("cutover", ["hold", "overlap"])
def test_an_engine_that_fails_its_gate_leads_back_to_the_old_one(mode: str, cutover: Cutover) -> None:
    host = SimulatedHost(random.Random(7), overlap=cutover == "overlap")
    host.boxes[NEW].mode = mode
    assert host.flip(cutover) == 1
    assert old_serves(host)
    assert "its last line" in host.lines() and "ollama (stack-ollama-1) serves" in host.lines()
    assert "pulumi config set engine ollama" in host.lines()


@pytest.mark.parametrize("drain_ends", [True, False])
def test_no_request_waits_longer_than_the_worst_that_the_preview_says(drain_ends: bool) -> None:
    bounds = Bounds(drain=120, load=300, completions=3)
    told = times(bounds.drain, bounds.load)
    host = SimulatedHost(random.Random(7))
    host.takes = lambda action: 0.1  # type: ignore[method-assign]
    host.drain_seconds = bounds.drain - 2 if drain_ends else told.request
    assert host.state.active
    host.state.active.plan = plan(OLD, gateway=OLD_GATEWAY, seconds=told, gpu_bytes=8 * 2**30)

    def loads_as_long_as_it_may(name: str) -> None:
        """The memory is free and the engine answers when it was almost too late."""
        host.gpu_free, host.boxes[name].mode = 0, "silent"
        waits = lambda: bool(host.state.memory_wait and host.state.memory_wait.container == name)  # noqa: E731
        assert host.run(400, waits), (host.phase(), host.lines())
        host.run(told.memory - 2)
        host.gpu_free = 16 * 2**30
        assert host.run(5, lambda: host.boxes[name].running)
        host.run(bounds.load - 4)
        host.boxes[name].mode = "good"

    def follow(seconds: float) -> None:
        host.state.transaction.lease += seconds  # type: ignore[union-attr]

    host.ask("prepare", plan(seconds=told, gpu_bytes=8 * 2**30))
    follow(1000)
    if drain_ends:
        loads_as_long_as_it_may(NEW)
        assert host.run(10, lambda: host.phase() == "prepared")
        host.run(told.lease_prepared - 2)
        host.make_gateway(mode="silent")
        host.ask("commit", plan(gateway=NEW_GATEWAY, seconds=told, gpu_bytes=8 * 2**30))
        follow(1000)
        assert host.run(100, lambda: host.phase() == "restoring")
        loads_as_long_as_it_may(OLD)
    assert host.run(1000, lambda: host.phase() == "failed" and host.settled())
    assert host.state.last and host.state.last.held_seconds
    least = bounds.worst - 40 if drain_ends else bounds.drain - 2
    assert least < host.state.last.held_seconds <= bounds.worst


def test_an_engine_that_exits_is_not_waited_for(host: SimulatedHost) -> None:
    host.boxes[NEW].mode = "exits"
    began = host.now
    host.flip()
    assert host.now - began < 25


def test_a_drain_that_does_not_end_is_given_up_and_stops_no_engine(host: SimulatedHost) -> None:
    host.drain_seconds = 40
    run = host.boxes[OLD].runs
    assert host.flip() == 1
    assert old_serves(host) and host.boxes[OLD].runs == run
    assert "stack-proxy-1 still had" in host.lines() and "no engine was stopped" in host.lines()


def test_a_proxy_that_hangs_has_not_drained_and_one_that_does_not_run_has_nothing(
    host: SimulatedHost,
) -> None:
    host.another_proxy().hangs_until = host.now + 100
    assert host.flip() == 1 and old_serves(host)
    assert "stack-proxy-2 did not answer after 20 s; no engine was stopped" in host.lines()
    host.boxes[OTHER_PROXY].running = False
    assert host.flip() == 0


def test_a_proxy_that_has_not_taken_note_of_the_hold_has_not_drained(host: SimulatedHost) -> None:
    host.proxies[PROXY].looks_at = host.now + 12
    host.ask("prepare", plan())
    assert host.run(10, lambda: host.phase() == "draining")
    assert not host.run(8, lambda: host.phase() != "draining")
    assert host.run(6, lambda: host.phase() == "loading")


def test_a_hold_ends_no_gateway_and_the_old_one_ends_once_the_proxies_have_taken_note_of_the_release(
    host: SimulatedHost,
) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    assert host.holds() and host.file.engine == "ollama-1"
    assert host.serves() == ([NEW], [OLD_GATEWAY])
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    host.proxies[PROXY].looks_at = host.now + 1000
    assert host.run(20, lambda: host.phase() == "retiring")
    released = host.now
    assert not host.holds() and host.file.container == NEW and host.file.gateway == NEW_GATEWAY
    assert not host.run(4, lambda: host.boxes[OLD_GATEWAY].ends_at is not None)
    host.proxies[PROXY].looks_at = 0
    assert host.run(2, lambda: host.boxes[OLD_GATEWAY].ends_at is not None), host.now - released
    assert host.follow() == 0


@pytest.mark.parametrize(("answer_seconds", "takes"), [(500, 500), (5000, 600)])
def test_the_longest_answer_is_never_cut_and_what_is_no_answer_ends_after_it(
    answer_seconds: float, takes: float
) -> None:
    host = SimulatedHost(random.Random(7), overlap=True)
    host.drain_seconds = answer_seconds
    host.ask("prepare", plan(cutover="overlap"))
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(NEW, "overlap", NEW_GATEWAY))
    began = host.now
    assert host.follow(2000) == 0
    assert takes <= host.now - began < takes + 20


def test_after_an_overlap_the_old_engine_goes_on_until_no_proxy_has_a_request_there(
    host: SimulatedHost,
) -> None:
    host.overlap = True
    host.ask("prepare", plan(cutover="overlap"))
    assert host.follow() == 0
    host.make_gateway()
    host.proxies[PROXY].running.append(("ollama-1", host.now + 50))
    host.ask("commit", plan(NEW, "overlap", NEW_GATEWAY))
    assert host.run(40, lambda: not host.boxes[OLD_GATEWAY].running)
    assert host.boxes[OLD].running and host.phase() == "retiring"
    assert host.follow() == 0 and host.serves() == ([NEW], [NEW_GATEWAY])


@pytest.mark.parametrize("mode", ["exits", "error", "silent"])
def test_a_new_gateway_that_gives_no_completion_leads_back(host: SimulatedHost, mode: str) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.make_gateway(mode=mode)
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    assert host.follow() == 1
    assert old_serves(host)


@pytest.mark.parametrize(("first", "then", "passes"), [(0.6, 0.01, True), (0.01, 0.6, False)])
def test_the_first_completion_of_several_does_not_say_how_fast_an_engine_is(
    host: SimulatedHost, first: float, then: float, passes: bool
) -> None:
    host.token_seconds = first
    host.ask("prepare", plan())
    assert host.run(60, lambda: bool(host.state.transaction and host.state.transaction.gates))
    host.token_seconds = then
    assert (host.follow() == 0) == passes
    assert passes or "1.7 tokens per second in its fastest completion after the first" in host.lines()


@pytest.mark.parametrize(("speed", "passes"), [(0.01, True), (0.6, False)])
def test_a_single_completion_says_how_fast_an_engine_is(
    host: SimulatedHost, speed: float, passes: bool
) -> None:
    host.token_seconds = speed
    wanted = plan()
    host.ask("prepare", dataclasses.replace(wanted, gate=dataclasses.replace(wanted.gate, completions=1)))
    assert (host.follow() == 0) == passes


def test_a_signal_that_a_kill_cut_off_is_sent_again(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    host.kill_at = lambda: (
        host.phase() == "retiring" and OLD_GATEWAY in host.state.terminating and not host.kills
    )
    assert host.run(20, lambda: host.kills == 1)
    assert host.boxes[OLD_GATEWAY].ends_at is None
    assert host.run(10, lambda: not host.boxes[OLD_GATEWAY].running)


def test_an_engine_that_was_told_to_stop_is_not_believed_after_a_kill(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    host.kill_at = lambda: host.phase() == "stopping" and host.kills == 0
    assert host.run(10, lambda: host.kills == 1)
    assert host.run(30, lambda: old_serves(host)) and host.boxes[OLD].runs == 1


def test_a_commit_that_was_given_up_without_a_journal_is_not_gone_on_with_after_a_kill(
    host: SimulatedHost,
) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    host.full = lambda: True

    def freed_and_killed() -> bool:
        """The one kill: it comes before anything was done about the state that was not kept."""
        host.full = host.kill_at = lambda: False
        return True

    host.kill_at = freed_and_killed
    host.turn()
    assert host.kills == 1
    assert host.run(300, lambda: old_serves(host)), (host.state, host.boxes)


@pytest.mark.parametrize("phase", ["loading", "prepared"])
def test_another_engine_does_not_stay_beside_the_one_that_gets_ready(host: SimulatedHost, phase: str) -> None:
    host.overlap = True  # a person starts it, not the switch
    host.boxes["stack-ollama-9"] = Box("stack-ollama-9", "engine")
    host.ask("prepare", plan())
    assert host.run(30, lambda: host.phase() == phase)
    host.boxes["stack-ollama-9"].running = True
    assert host.run(10, lambda: not host.boxes["stack-ollama-9"].running)
    assert host.follow() == 0


def test_a_prepared_engine_that_ends_is_a_failed_change(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.boxes[NEW].running = False
    assert host.run(30, lambda: old_serves(host)) and "after its gate" in host.lines()


def test_in_an_overlap_the_old_engines_end_is_a_hold_and_a_failed_change() -> None:
    host = SimulatedHost(random.Random(7), overlap=True)
    host.boxes[NEW].mode = "silent"
    host.ask("prepare", plan(cutover="overlap"))
    assert host.run(10, lambda: host.boxes[NEW].running)
    host.boxes[OLD].running = False
    host.turn()
    assert host.file.held_since == host.now
    assert host.run(60, lambda: old_serves(host))


def test_a_coordinator_that_stops_following_is_undone_while_the_engine_loads(host: SimulatedHost) -> None:
    host.boxes[NEW].mode = "silent"
    host.ask("prepare", plan())
    host.follow(patience=5)
    assert host.run(60, lambda: old_serves(host))
    assert answer(host.state)[1] == 1


def test_a_prepared_change_waits_for_its_longer_lease_and_then_is_undone(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.run(25)
    assert host.serves()[0] == [NEW]
    assert host.run(60, lambda: old_serves(host))


def test_a_commit_that_finds_its_prepare_undone_does_it_again(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    host.follow()
    assert host.run(120, lambda: old_serves(host))
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    assert host.follow() == 0
    assert host.serves() == ([NEW], [NEW_GATEWAY])


def test_a_gateway_alone_is_changed_without_a_hold(host: SimulatedHost) -> None:
    host.ask("prepare", plan(OLD))
    assert host.follow() == 0 and host.phase() == "unchanged"
    host.make_gateway()
    host.ask("commit", plan(OLD, gateway=NEW_GATEWAY))
    assert host.follow() == 0
    assert host.serves() == ([OLD], [NEW_GATEWAY]) and not host.held()
    assert host.boxes[OLD].runs == 0 and host.file.number == 2


def limits_changed(wanted: Plan) -> Plan:
    return dataclasses.replace(wanted, routing=wanted.routing + "[limits]\nhold_seconds = 5\n")


@pytest.mark.parametrize("gateway", [OLD_GATEWAY, None])
def test_another_routing_alone_is_published_by_its_commit_and_holds_nobody(
    host: SimulatedHost, gateway: str | None
) -> None:
    if gateway is None:
        assert host.flip(to=OLD, gateway=None) == 0
    runs = {name: box.runs for name, box in host.boxes.items()}
    wanted = limits_changed(plan(OLD, gateway=gateway))
    host.ask("prepare", limits_changed(plan(OLD, gateway=gateway and "")))
    assert host.follow() == 0 and "hold_seconds" not in host.file.routing
    host.ask("commit", wanted)
    assert host.follow() == 0 and not host.held()
    assert host.file.routing == wanted.routing and not host.holds()
    assert runs == {name: box.runs for name, box in host.boxes.items()}
    host.ask("commit", wanted)
    assert host.phase() == "unchanged"


def test_without_a_gateway_the_commit_itself_is_the_release(host: SimulatedHost) -> None:
    assert host.flip(gateway=None) == 0, host.lines()
    assert host.serves() == ([NEW], []) and host.settled()
    assert "gateway answers" not in host.lines() and host.held()
    assert (host.file.engine, host.file.gateway) == ("vllm-2", None)
    host.boxes[NEW].running = False
    host.turn()
    assert host.holds()
    assert host.run(60, host.settled)
    assert host.flip(to=OLD, gateway=None) == 0 and host.serves() == ([OLD], [])


@pytest.mark.parametrize("engine", [OLD, NEW])
def test_the_gateway_goes_and_comes_by_a_change_like_any_other(host: SimulatedHost, engine: str) -> None:
    assert host.flip(to=engine, gateway=None) == 0, host.lines()
    assert host.serves() == ([engine], []) and not host.file.gateway
    assert host.held() == (engine == NEW)
    assert host.flip(to=engine) == 0, host.lines()
    assert host.serves() == ([engine], [NEW_GATEWAY]) and host.file.gateway == NEW_GATEWAY
    assert not host.held() and "gateway answers" in host.lines()


def test_a_former_name_of_the_model_is_answered_until_its_update_has_ended(host: SimulatedHost) -> None:
    assert host.flip(model="other") == 0
    assert host.file.also == ["tiny"] and "models.other" in host.file.routing
    assert not host.run(FORMER_NAME_SECONDS - 10, lambda: host.file.also == [])
    assert host.run(20, lambda: host.file.also == [])


def test_a_name_that_was_changed_back_is_no_former_one(host: SimulatedHost) -> None:
    assert host.flip(model="other") == 0
    assert host.flip(to=OLD, gateway="stack-gateway-3") == 0
    assert host.file.also == ["other"]
    assert host.run(FORMER_NAME_SECONDS + 10, lambda: host.file.also == [])


def test_a_change_that_fails_gives_no_name_away(host: SimulatedHost) -> None:
    host.boxes[NEW].mode = "error"
    assert host.flip(model="other") == 1 and old_serves(host)
    assert host.file.also == [] and "models.tiny" in host.file.routing


@pytest.fixture
def old_version(host: SimulatedHost) -> SimulatedHost:
    """What commit 0fb29bc has left: an edge that asks its gateway, and proxies that nobody asks yet."""
    active = Active(before_proxies(plan(OLD, gateway=OLD_GATEWAY)), "run 0", host.now)
    host.state = host.journal = State(active=active)
    host.file = route(host.state, 1, 900.0)
    host.proxies[PROXY] = Requests(host.file)
    return host


def test_what_a_version_without_proxies_made_is_held_by_ending_its_gateway(
    old_version: SimulatedHost,
) -> None:
    host = old_version
    host.ask("prepare", plan())
    assert host.run(20, lambda: host.phase() == "loading")
    assert not host.boxes[OLD_GATEWAY].running and not host.boxes[OLD].running
    assert host.file == route(State(), 1, 900.0)
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    assert host.follow() == 0 and host.serves() == ([NEW], [NEW_GATEWAY])
    assert host.file == route(host.state, 2, 0) and not host.holds()


def test_a_start_on_what_a_version_without_proxies_made_holds_nobody(old_version: SimulatedHost) -> None:
    old_version.apply(Started(old_version.file.held_since))
    assert old_version.state.held is None
    old_version.state.active = Active(plan(OLD, gateway=OLD_GATEWAY), "run 0", old_version.now)
    old_version.apply(Started(old_version.file.held_since))
    assert old_version.state.held == 900.0, "what is held is not released unseen"


def test_another_name_waits_until_the_edge_of_a_version_without_proxies_has_gone(
    old_version: SimulatedHost,
) -> None:
    host, before = old_version, copy.deepcopy(old_version.state)
    with pytest.raises(Refused, match="`pulumi config set name tiny` and `pulumi up`") as refused:
        host.ask("prepare", plan(model="other"))
    assert "serves, as before" in str(refused.value)
    assert host.state == before
    assert host.flip() == 0
    host.ask("prepare", plan(OLD, model="other"))


def test_what_a_version_without_proxies_made_comes_back_with_its_gateway(old_version: SimulatedHost) -> None:
    host = old_version
    host.boxes[NEW].mode = "error"
    assert host.flip() == 1
    assert host.serves() == ([OLD], [OLD_GATEWAY]) and host.file.number == 1
    host.boxes[OLD].running = False
    assert host.run(5, lambda: not host.boxes[OLD_GATEWAY].running)
    assert host.run(60, lambda: host.serves() == ([OLD], [OLD_GATEWAY]) and host.state.held is None)


def test_the_upgrade_of_an_engine_that_stays_holds_nobody(old_version: SimulatedHost) -> None:
    host = old_version
    assert host.flip(to=OLD) == 0, host.lines()
    assert host.serves() == ([OLD], [NEW_GATEWAY]) and not host.held()
    assert host.file.container == OLD and not host.holds() and host.boxes[OLD].runs == 0


def test_a_commit_of_what_already_serves_changes_nothing(host: SimulatedHost) -> None:
    host.ask("commit", plan(OLD, gateway=OLD_GATEWAY))
    assert answer(host.state) == (["ollama (stack-ollama-1) is already serving"], 0)
    assert host.state.last is None


def test_the_first_deployment_has_nothing_to_go_back_to() -> None:
    host = SimulatedHost(random.Random(7))
    host.state = State()
    for name in (OLD, OLD_GATEWAY):
        del host.boxes[name]
    host.boxes[NEW].mode = "error"
    assert host.flip() == 1
    assert host.serves() == ([], []) and host.state.active is None
    assert "Nothing serves" in host.lines()
    host.boxes[NEW].mode = "good"
    assert host.flip() == 0
    assert host.serves() == ([NEW], [NEW_GATEWAY])


def test_a_crash_of_the_active_engine_holds_from_the_turn_on_that_sees_it_until_it_is_gated_again(
    host: SimulatedHost,
) -> None:
    host.boxes[OLD].running = False
    host.turn()
    assert host.file.held_since == host.now and host.file.number == 2
    assert host.run(60, lambda: old_serves(host))
    assert host.state.held is None and not host.holds() and host.file.number == 3
    assert host.boxes[OLD_GATEWAY].runs == 0


def test_an_engine_that_docker_has_restarted_is_gated_again_while_requests_wait(host: SimulatedHost) -> None:
    host.boxes[OLD].runs = 5
    host.turn()
    assert host.file.held_since == host.now
    assert host.run(60, lambda: old_serves(host)) and host.boxes[OLD].runs == 5


def test_a_gateway_that_ends_is_a_hold_until_it_runs_again(host: SimulatedHost) -> None:
    host.boxes[OLD_GATEWAY].running = False
    host.turn()
    assert host.file.held_since == host.now
    assert host.run(10, lambda: old_serves(host))
    assert host.boxes[OLD_GATEWAY].runs == 1 and host.boxes[OLD].runs == 0


def test_an_engine_that_does_not_come_back_is_tried_again_and_said_to_be_in_trouble(
    host: SimulatedHost,
) -> None:
    host.boxes[OLD].running, host.boxes[OLD].mode = False, "exits"
    host.run(60)
    assert "exited with code 3" in host.state.trouble and host.holds()
    assert 3 < host.boxes[OLD].runs < 12
    host.boxes[OLD].mode = "good"
    assert host.run(120, lambda: old_serves(host) and not host.state.trouble)


def test_another_engine_that_was_started_by_hand_is_stopped(host: SimulatedHost) -> None:
    host.overlap = True
    host.boxes[NEW].running = True
    assert host.run(10, lambda: old_serves(host))


def test_nothing_is_stopped_while_nothing_is_known_to_be_active(host: SimulatedHost) -> None:
    host.state = State()
    host.run(10)
    assert host.serves() == ([OLD], [OLD_GATEWAY])


def test_a_second_change_is_refused_while_one_is_under_way(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    with pytest.raises(Occupied, match=r"a change to vllm .* is under way"):
        host.ask("prepare", plan(OLD))


def test_a_change_after_a_killed_one_waits_until_that_is_undone(host: SimulatedHost) -> None:
    host.boxes[NEW].mode = "silent"
    host.ask("prepare", plan())
    host.follow(patience=5)
    assert host.run(30, lambda: bool(host.state.transaction and host.state.transaction.phase == "restoring"))
    host.ask("prepare", plan(OLD))
    assert answer(host.state)[1] == 75
    assert host.follow() == 0
    assert host.phase() == "unchanged" and host.run(5, lambda: old_serves(host))


def test_the_same_change_asked_for_again_goes_on_with_the_first(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    host.run(3)
    first = host.state.transaction
    host.ask("prepare", plan())
    assert first and host.state.transaction and host.state.transaction.id == first.id
    assert host.follow() == 0


def test_a_missing_container_is_refused_before_anything_begins(host: SimulatedHost) -> None:
    with pytest.raises(Refused, match="does not exist"):
        host.ask("prepare", plan("stack-vllm-3"))
    with pytest.raises(Refused, match="does not exist"):
        host.ask("commit", plan(NEW, gateway="stack-gateway-9"))


def test_a_gateway_is_removed_only_when_it_was_already_nobodys_at_the_commit_before(
    host: SimulatedHost,
) -> None:
    host.boxes["stack-gateway-0"] = Box("stack-gateway-0", "gateway", created=1.0)
    assert host.flip() == 0
    assert {"stack-gateway-0", OLD_GATEWAY} <= set(host.boxes)
    host.run(60)
    host.make_gateway("stack-gateway-3")
    host.ask("commit", plan(NEW, gateway="stack-gateway-3"))
    assert host.follow() == 0
    assert "stack-gateway-0" not in host.boxes and {OLD_GATEWAY, NEW_GATEWAY} <= set(host.boxes)


def test_what_is_released_is_not_brought_back(host: SimulatedHost) -> None:
    host.apply(StackReleased())
    host.boxes[OLD].running = host.boxes[OLD_GATEWAY].running = False
    host.run(10)
    assert host.serves() == ([], []) and host.file.engine is None and host.holds()


@pytest.mark.parametrize("phase", ["checking", "draining", "stopping", "loading", "prepared"])
@pytest.mark.parametrize("cutover", ["hold", "overlap"])
def test_a_change_that_is_given_up_on_purpose_leads_back_and_is_no_alarm(
    phase: str, cutover: Cutover
) -> None:
    if cutover == "overlap" and phase in ("draining", "stopping"):
        return  # it has no such phase
    host = SimulatedHost(random.Random(7), overlap=cutover == "overlap")
    runs = host.boxes[OLD].runs
    host.ask("prepare", plan(cutover=cutover))
    assert host.run(60, lambda: host.phase() == phase)
    host.apply(Abandoned(NEW))
    assert host.follow() == 1 and host.run(30, lambda: old_serves(host))
    assert host.state.last and host.state.last.abandoned and host.state.last.error == "given up as asked"
    assert "failed" not in host.lines() and "next:" not in host.lines()
    assert "ollama (stack-ollama-1) serves" in host.lines() and not host.state.trouble
    if cutover == "overlap" or phase == "checking":
        assert host.boxes[OLD].runs == runs
    assert host.flip(cutover) == 0


def test_only_a_change_that_is_not_yet_committed_can_be_given_up(host: SimulatedHost) -> None:
    with pytest.raises(Refused, match="no change to stack-vllm-2 is under way"):
        host.apply(Abandoned(NEW))
    host.ask("prepare", plan())
    with pytest.raises(Refused, match="no change to stack-vllm-9 is under way"):
        host.apply(Abandoned("stack-vllm-9"))
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    with pytest.raises(Refused, match="is being committed"):
        host.apply(Abandoned(NEW))
    assert host.follow() == 0
    with pytest.raises(Refused, match="no change"):
        host.apply(Abandoned(NEW))


def test_a_change_asked_for_after_one_that_was_given_up_waits_for_it(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.apply(Abandoned(NEW))
    assert host.flip() == 0
    assert host.serves() == ([NEW], [NEW_GATEWAY])


def one_waits(host: SimulatedHost, to: str = NEW) -> None:
    """A change was given up, which needs time for its way back, and `second` waits for that with another."""
    host.boxes.setdefault(to, Box(to, "engine"))
    host.boxes[NEW].mode = host.boxes[OLD].mode = "silent"
    host.ask("prepare", plan(), "first")
    assert host.run(30, lambda: host.boxes[NEW].running)
    host.apply(Abandoned(NEW))
    host.ask("prepare", plan(to), "second")
    assert host.phase() == "restoring" and host.state.waiting
    host.run(1)


@pytest.mark.parametrize("coordinator", ["second", ""], ids=["now", "by an older version"])
@pytest.mark.parametrize("to", [NEW, "stack-vllm-3"])
def test_a_change_that_waits_does_not_begin_once_it_is_given_up(
    host: SimulatedHost, to: str, coordinator: str
) -> None:
    one_waits(host, to)
    host.apply(Abandoned(to, coordinator))
    assert host.state.waiting is None and host.phase() == "restoring"
    host.boxes[NEW].mode = host.boxes[OLD].mode = "good"
    assert host.run(60, lambda: old_serves(host)) and not host.run(20, lambda: not old_serves(host))
    assert host.boxes[OLD].runs == 1, "it came back, and was not stopped for the change that waited"
    assert host.state.last and host.state.last.coordinator == "first"


def test_only_its_own_coordinator_gives_a_change_up(host: SimulatedHost) -> None:
    host.ask("prepare", plan(), "first")
    host.run(3)
    host.ask("prepare", plan(), "second")  # it takes the change over
    with pytest.raises(Refused, match="the change to stack-vllm-2 is another `pulumi up`'s"):
        host.apply(Abandoned(NEW, "first"))
    assert host.follow() == 0
    host.boxes[OLD].mode = "silent"
    host.apply(Abandoned(NEW, "second"))
    host.ask("prepare", plan(), "third")
    host.apply(Abandoned(NEW, "second"))
    assert host.state.waiting and host.phase() == "restoring", "what waits is another's"


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("away", ["a stall", "a kill", "a reboot"])
def test_a_change_that_waits_is_not_carried_out_after_a_stall_or_a_kill_until_somebody_follows(
    host: SimulatedHost, away: str, there: bool
) -> None:
    one_waits(host)
    if away == "a stall":
        host.stall(90)
    else:
        host.reboots = float(away == "a reboot")
        host.pass_time(90)
        host.kill()
    host.boxes[NEW].mode = host.boxes[OLD].mode = "good"
    if there:
        assert host.follow() == 0 and host.phase() == "prepared"
        return
    runs = host.boxes[NEW].runs
    assert host.run(60, lambda: old_serves(host) and host.state.waiting is None), host.state
    assert host.boxes[NEW].runs == runs and host.phases() == ["checking", "failed"]
    assert "interrupted" in host.lines()


@pytest.mark.parametrize("name", [OLD, OLD_GATEWAY])
def test_what_hangs_while_it_serves_is_said_ended_and_brought_back(host: SimulatedHost, name: str) -> None:
    host.run(10)
    host.hang(name)
    assert not host.run(40, lambda: bool(host.state.terminating)), "it may only be slow"
    assert host.run(10, lambda: name in host.state.terminating)
    assert "hangs: no answer for 45 s" in host.state.trouble and host.holds()
    said = name if name == OLD_GATEWAY else "ollama-1"
    assert host.file.given_up == [said], "what is there is ended"
    assert host.run(30, lambda: old_serves(host))
    assert host.boxes[name].runs == 1 and host.file.given_up == [] and not host.state.trouble
    assert "hangs: no answer for 45 s" in host.state.healed
    assert host.boxes[OLD if name == OLD_GATEWAY else OLD_GATEWAY].runs == 0


def test_a_proxy_that_hangs_is_started_anew_and_nothing_else_is_touched(host: SimulatedHost) -> None:
    host.run(10)
    host.hang(PROXY)
    assert not host.run(40, lambda: bool(host.state.terminating)), "it may only be slow"
    assert host.run(10, lambda: host.boxes[PROXY].runs == 1)
    assert host.state.healed == "proxy (stack-proxy-1) hangs: no answer for 45 s. It was restarted"
    host.run(5)
    assert not host.holds() and not host.state.terminating and host.boxes[PROXY].runs == 1
    assert host.boxes[OLD].runs == host.boxes[OLD_GATEWAY].runs == 0 and host.file.given_up == []


@pytest.mark.parametrize("way", ["killed", "refused"])
def test_a_proxy_that_was_to_be_started_anew_is_though_the_switch_is_killed_or_docker_refuses(
    host: SimulatedHost, way: str
) -> None:
    host.run(10)
    host.hang(PROXY)
    orders = list[str]()

    def first() -> bool:
        orders.append("")
        return len(orders) == 1

    if way == "killed":
        host.kill_at = first
    else:
        carry_out = host.carry_out

        def refuses(action: Action) -> ActionFinished:
            if action.do == "restart" and first():
                return ActionFinished(action, False, "not now")
            return carry_out(action)

        host.carry_out = refuses  # type: ignore[method-assign]
    assert host.run(120, lambda: host.boxes[PROXY].runs == 1)
    assert orders


@pytest.mark.parametrize("cutover", ["hold", "overlap"])
def test_a_change_waits_for_a_proxy_that_hangs_until_it_is_started_anew(cutover: Cutover) -> None:
    host = SimulatedHost(random.Random(7), overlap=cutover == "overlap")
    host.run(10)
    host.patience_with_hangs = 15  # less than the drain, as in a plan
    host.hang(PROXY)
    assert host.flip(cutover) == 0, host.lines()
    assert host.boxes[PROXY].runs == 1 and host.serves()[0] == [NEW]


@pytest.mark.parametrize("found_after", [SECONDS.answers, SECONDS.tokens])
def test_an_engine_that_hangs_again_and_again_is_tried_with_growing_pauses(
    host: SimulatedHost, found_after: float
) -> None:
    """Whether nothing of it answers, which is found soon, or only its completions stand still."""
    pauses, host.patience_with_hangs = list[float](), found_after
    for _ in range(5):
        host.hang(OLD)
        assert host.run(found_after + 15, lambda: OLD in host.state.terminating)
        said = host.now
        assert host.run(60, lambda: not host.boxes[OLD].running)
        pauses.append(host.now - said)
        assert host.run(60, lambda: old_serves(host))
    assert all(least <= pause < least + 5 for least, pause in zip((2, 4, 8, 16, 32), pauses, strict=True))
    assert not host.run(SECONDS.tokens + 25, lambda: host.state.tries == 0), "by then it might hang again"
    assert host.run(20, lambda: host.state.tries == 0)


@pytest.mark.parametrize("hung_before", [0, 44, 100])
@pytest.mark.parametrize("cutover", ["hold", "overlap"])
@pytest.mark.parametrize("name", [OLD, OLD_GATEWAY])
def test_a_flip_away_from_what_hangs_succeeds_and_waits_for_nothing_that_is_there(
    name: str, cutover: Cutover, hung_before: float
) -> None:
    host = SimulatedHost(random.Random(7), overlap=cutover == "overlap")
    host.run(10)
    host.patience_with_hangs = 15  # less than the drain, as in a plan
    host.boxes[name].hangs_since = host.now - hung_before
    began = host.now
    assert host.flip(cutover) == 0, host.lines()
    assert host.serves() == ([NEW], [NEW_GATEWAY]) and host.settled()
    assert host.now - began < 60 and "hangs" in host.lines() + host.state.healed


@pytest.mark.parametrize(
    ("frozen_for", "goes_through"),
    [(0, False), (200, False), (355, False), (365, True), (470, True), (481, True)],
)
def test_a_flip_away_from_completions_that_stand_still_says_until_when_they_are_waited_for(
    host: SimulatedHost, frozen_for: float, goes_through: bool
) -> None:
    """The rest of the engine answers, so that it may be working on something long. All times are those of a
    deployment: a drain ends long before such an engine is given up."""
    told = times(120, 300)
    assert host.state.active
    host.state.active.plan = plan(OLD, gateway=OLD_GATEWAY, seconds=told)
    host.patience_with_hangs = told.tokens
    host.run(10)
    host.hang(OLD)
    host.run(frozen_for)

    def flipped() -> int:
        host.ask("prepare", plan(seconds=told))
        if code := host.follow():
            return code
        host.make_gateway()
        host.ask("commit", plan(gateway=NEW_GATEWAY, seconds=told))
        return host.follow()

    if not goes_through:
        began = host.now
        assert flipped() == 1 and host.now - began < told.drain + 5
        assert host.boxes[OLD].runs == 0 and not host.holds(), "it may work, and is let alone"
        error = host.state.last.error if host.state.last else ""
        assert "requests after 120 s; no engine was stopped. ollama (stack-ollama-1) has given no " in error
        assert error.endswith(
            "; after 480 s of that it is given up, and no change waits for its requests any more: run "
            "`pulumi up` again then"
        )
        assert host.run(500, lambda: OLD in host.state.terminating)
    assert flipped() == 0, host.lines()
    assert host.serves() == ([NEW], [NEW_GATEWAY]) and host.settled()


def test_a_drain_that_does_not_end_says_nothing_of_an_engine_that_works_or_has_no_requests(
    host: SimulatedHost,
) -> None:
    host.drain_seconds = 40
    assert host.flip() == 1 and "given up" not in host.lines()
    host.drain_seconds = 1
    host.run(60)
    host.another_proxy().hangs_until = host.now + 1000
    host.patience_with_hangs = 480
    host.ask("prepare", plan())
    assert host.run(20, lambda: host.phase() == "draining" and not host.proxies[PROXY].running)
    host.hang(OLD)
    assert host.follow() == 1
    assert "stack-proxy-2 did not answer" in host.lines() and "given up" not in host.lines()


def test_an_engine_that_begins_to_hang_in_a_drain_is_given_up_in_it(host: SimulatedHost) -> None:
    host.patience_with_hangs = 15
    host.ask("prepare", plan())
    assert host.run(10, lambda: host.phase() == "draining")
    host.proxies[PROXY].running.append(("ollama-1", host.now + 1))
    host.hang(OLD)
    assert not host.run(14, lambda: host.phase() != "draining")
    assert host.follow() == 0 and "The change does not wait for its requests" in host.lines()


def test_a_proxy_of_an_older_version_is_not_waited_for_either_when_an_engine_hangs(
    host: SimulatedHost,
) -> None:
    host.run(10)
    host.patience_with_hangs, host.proxies[PROXY].gives_up = 15, False
    host.hang(OLD)
    assert host.flip() == 0, host.lines()


def test_an_overlap_whose_old_engine_hangs_goes_on_as_a_hold() -> None:
    host = SimulatedHost(random.Random(7), overlap=True)
    host.patience_with_hangs = 10
    host.boxes[NEW].mode = "silent"
    host.ask("prepare", plan(cutover="overlap"))
    assert host.run(10, lambda: host.phase() == "loading")
    host.hang(OLD)
    for _ in range(20):
        host.apply(Followed())
        host.run(1)
    assert host.holds() and not host.boxes[OLD].running
    host.boxes[NEW].mode = "good"
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(NEW, "overlap", NEW_GATEWAY))
    assert host.follow() == 0 and host.held()
    assert host.serves() == ([NEW], [NEW_GATEWAY])


def test_an_old_engine_that_hangs_is_started_anew_on_the_way_back(host: SimulatedHost) -> None:
    host.boxes[NEW].mode = "error"
    host.ask("prepare", plan())
    assert host.run(10, lambda: host.phase() == "checking" or bool(host.jobs))
    host.boxes[OLD].hangs_since = host.now - 100
    assert host.follow() == 1
    assert old_serves(host) and host.boxes[OLD].runs >= 1


def test_a_gateway_that_hangs_when_it_is_told_to_end_is_not_waited_for(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    assert host.run(20, lambda: host.phase() == "retiring")
    host.hang(OLD_GATEWAY)
    began = host.now
    assert host.follow() == 0 and 40 < host.now - began < 60


def test_a_new_engine_that_hangs_after_its_gate_leads_back(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.patience_with_hangs = 5
    host.hang(NEW)
    assert host.run(60, lambda: old_serves(host))
    assert host.state.last and "vllm hung (no answer" in host.state.last.error


def on_network(host: SimulatedHost) -> None:
    """Everything is on the stack's network, and the switch has seen it."""
    host.boxes["stack-switch-1"] = Box("stack-switch-1", "switch", running=True)
    for box in host.boxes.values():
        box.networks = {"stack": [box.role, box.name.removeprefix("stack-")]}
    host.run(2)
    assert host.state.network == "stack"


@pytest.mark.parametrize("name", [OLD, NEW, OLD_GATEWAY, PROXY, "stack-switch-1"])
def test_what_is_taken_off_the_network_is_put_back_by_its_names_and_said(
    host: SimulatedHost, name: str
) -> None:
    on_network(host)
    before = dict(host.boxes[name].networks)
    host.boxes[name].networks = {"of a person": []}
    host.turn()
    assert host.boxes[name].networks == {"of a person": [], **before}
    assert f"{name} was taken off the network stack" in host.state.healed
    if name == OLD:
        assert host.holds() and host.file.given_up == ["ollama-1"], "what it had can't reach it any more"
    assert host.run(20, lambda: old_serves(host)) and host.file.given_up == []
    assert all(box.runs == 0 for box in host.boxes.values())


def test_of_several_that_are_put_right_in_one_look_each_is_said(host: SimulatedHost) -> None:
    on_network(host)
    for name in (OLD, OLD_GATEWAY):
        host.boxes[name].networks = {}
    host.turn()
    off = "{} was taken off the network stack, and was put back"
    assert host.state.healed == f"{off.format(OLD)}; {off.format(OLD_GATEWAY)}"
    host.boxes[PROXY].networks = {}
    host.run(2)
    assert host.state.healed == off.format(PROXY), "what was put right before is not said again"


def test_what_is_taken_off_a_further_network_of_the_stack_is_put_back_and_nothing_is_held(
    host: SimulatedHost,
) -> None:
    on_network(host)
    networks = host.boxes[PROXY].networks
    networks.update({"stack-clients": ["edge"], "of a person": ["a"]})
    host.run(2)
    del networks["stack-clients"], networks["of a person"]
    host.turn()
    assert networks["stack-clients"] == ["edge"] and "of a person" not in networks
    assert f"{PROXY} was taken off the network stack-clients, and was put back" in host.state.healed
    networks.clear()
    assert host.run(20, lambda: set(networks) == {"stack", "stack-clients"})
    assert not host.holds()


@pytest.mark.parametrize("running", [True, False])
def test_a_monitor_that_is_taken_off_the_network_is_put_back_and_is_nothing_that_serves(
    host: SimulatedHost, running: bool
) -> None:
    name = "stack-alerts"
    host.beside[name] = Box(name, "alerts", running=running)
    on_network(host)
    host.beside[name].networks = {"stack": ["alerts"]}
    host.run(2)
    host.beside[name].networks = {}
    host.turn()
    assert host.beside[name].networks == {"stack": ["alerts"]}
    assert f"{name} was taken off the network stack, and was put back" in host.state.healed
    assert not host.holds() and all(box.runs == 0 for box in host.boxes.values())
    host.beside[name] = Box(name, "alerts", running=running, created=host.now)  # another one of its name
    host.run(20)
    assert host.beside[name].networks == {}
    del host.beside[name]
    host.turn()
    assert name not in host.state.endpoints


def test_what_was_never_on_the_network_is_let_alone_and_another_network_is_learnt(
    host: SimulatedHost,
) -> None:
    on_network(host)
    host.boxes[NEW] = Box(NEW, "engine", created=host.now)
    host.run(2)
    assert host.boxes[NEW].networks == {}
    for box in host.boxes.values():
        box.networks = {"other": [box.role]}
    host.run(2)
    assert host.state.network == "other" and set(host.state.endpoints) == set(host.boxes)


@pytest.mark.parametrize("jump", [-3600, 0, 3600])
def test_what_docker_would_not_put_back_is_tried_again_soon_though_the_clock_was_set(
    host: SimulatedHost, jump: float
) -> None:
    host.pass_time(10_000)
    on_network(host)
    carry_out = host.carry_out
    host.carry_out = lambda action: ActionFinished(action, False, "Docker says no")  # type: ignore[method-assign]
    host.boxes[OLD].networks = {}
    host.turn()
    assert host.boxes[OLD].networks == {}
    host.carry_out = carry_out  # type: ignore[method-assign]
    host.clock_set = jump
    host.kill()
    assert host.run(10, lambda: "stack" in host.boxes[OLD].networks)


@pytest.mark.parametrize("stall", [5, 20, 90])
@pytest.mark.parametrize("phase", ["checking", "draining", "stopping", "loading", "prepared", "starting"])
@pytest.mark.parametrize("cutover", ["hold", "overlap"])
def test_no_good_change_is_taken_back_for_a_stall(cutover: Cutover, phase: str, stall: float) -> None:
    if cutover == "overlap" and phase in ("draining", "stopping"):
        return  # it has no such phase
    host = SimulatedHost(random.Random(7), overlap=cutover == "overlap")
    host.ask("prepare", plan(cutover=cutover))
    if phase == "starting":
        assert host.follow() == 0
        host.make_gateway()
        host.ask("commit", plan(NEW, cutover, NEW_GATEWAY))
    assert host.run(60, lambda: host.phase() == phase)
    host.stall(stall)
    if phase != "starting":
        assert host.follow() == 0, host.lines()
        host.make_gateway()
        host.ask("commit", plan(NEW, cutover, NEW_GATEWAY))
    assert host.follow() == 0, host.lines()
    assert host.serves() == ([NEW], [NEW_GATEWAY])


def test_after_a_stall_nothing_goes_on_until_its_coordinator_follows_again(host: SimulatedHost) -> None:
    host.drain_seconds = 3
    host.ask("prepare", plan())
    assert host.run(10, lambda: host.phase() == "draining")
    host.stall(60)
    assert not host.run(12, lambda: host.phase() != "draining"), "it may be that nobody wants it any more"
    assert host.boxes[OLD].running
    assert host.run(20, lambda: old_serves(host)) and "interrupted" in host.lines()
    assert host.boxes[OLD].runs == 0, "no engine was stopped for a change that nobody follows"


def test_where_every_look_takes_too_long_a_change_that_is_followed_goes_on(host: SimulatedHost) -> None:
    host.stall_at = lambda: 0.5
    assert host.flip() == 0, host.phases()
    assert host.serves() == ([NEW], [NEW_GATEWAY])


@pytest.mark.parametrize("there", [True, False])
def test_a_completion_that_is_heard_of_after_the_lease_decides_nothing_until_somebody_follows(
    host: SimulatedHost, there: bool
) -> None:
    host.takes = lambda action: 1.0  # type: ignore[method-assign]
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    assert host.run(20, lambda: host.phase() == "starting" and bool(host.jobs))
    host.stall(600)  # a coordinator that is there has long said that it waits no more
    assert any(isinstance(event, ActionFinished) and event.ok for event in host.heard)
    host.turn()
    assert host.phase() == "starting"
    if there:
        assert host.follow() == 0 and host.serves() == ([NEW], [NEW_GATEWAY])
    else:
        assert host.run(200, lambda: old_serves(host)) and "interrupted" in host.lines()


@pytest.mark.parametrize("what", ["ends", "hangs"])
@pytest.mark.parametrize("name", [NEW, NEW_GATEWAY])
def test_what_serves_is_brought_back_while_the_old_engine_still_has_answers(name: str, what: str) -> None:
    host = SimulatedHost(random.Random(7), overlap=True)
    host.ask("prepare", plan(cutover="overlap"))
    assert host.follow() == 0
    host.drain_seconds = 400
    host.run(2)
    host.make_gateway()
    host.ask("commit", plan(NEW, "overlap", NEW_GATEWAY))
    assert host.run(20, lambda: host.phase() == "retiring")
    host.run(1)
    gates = copy.deepcopy(host.state.transaction and host.state.transaction.gates)
    if what == "ends":
        host.boxes[name].running = False
    else:
        host.hang(name)
    assert host.run(50, host.holds)
    assert host.run(30, lambda: not host.holds()) and host.phase() == "retiring"
    assert host.boxes[OLD].running and dict(host.proxies[PROXY].running).keys() >= {"ollama-1"}
    assert host.state.transaction and host.state.transaction.gates == gates, "it is no part of the change"
    assert host.follow(2000) == 0 and host.serves() == ([NEW], [NEW_GATEWAY])


def test_a_new_engine_that_ends_by_hold_comes_back_only_once_no_other_runs(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    assert host.run(20, lambda: host.phase() == "retiring")
    host.boxes[NEW].running, host.boxes[OLD].running = False, True  # as if somebody had started it by hand
    assert host.follow() == 0 and host.run(30, lambda: host.settled() and not host.holds())
    assert host.serves() == ([NEW], [NEW_GATEWAY]) and host.most_engines == 1


@pytest.mark.parametrize("what", ["ends", "hangs"])
def test_a_gateway_that_ends_while_another_engine_loads_beside_is_started_again_at_once(what: str) -> None:
    host = SimulatedHost(random.Random(7), overlap=True)
    host.run(1)
    host.boxes[NEW].mode = "silent"
    host.ask("prepare", plan(cutover="overlap"))
    assert host.run(10, lambda: host.phase() == "loading")
    if what == "ends":
        host.boxes[OLD_GATEWAY].running = False
    else:
        host.patience_with_hangs = 10
        host.hang(OLD_GATEWAY)
    for _ in range(20):
        host.apply(Followed())
        host.run(1)
    assert host.phase() == "loading" and not host.holds() and host.boxes[OLD_GATEWAY].runs == 1
    host.boxes[NEW].mode = "good"
    assert host.follow() == 0 and not host.state.trouble
    host.make_gateway()
    host.ask("commit", plan(NEW, "overlap", NEW_GATEWAY))
    assert host.follow() == 0 and host.serves() == ([NEW], [NEW_GATEWAY])


@pytest.mark.parametrize(
    ("order", "cutover", "given_up"),
    [("start", "overlap", "loading"), ("stop", "overlap", "loading"), ("stop", "hold", "draining")],
)
def test_an_order_about_what_is_wanted_no_more_is_no_trouble_of_what_serves(
    order: str, cutover: Cutover, given_up: str
) -> None:
    host = SimulatedHost(random.Random(7), overlap=cutover == "overlap")
    host.takes = lambda action: 1.0  # type: ignore[method-assign]
    carry_out, refused = host.carry_out, list[str]()

    def refuses(action: Action) -> ActionFinished:
        if (action.do, action.container) == (order, NEW) and not refused:
            refused.append(action.do)
            return ActionFinished(action, False, "Docker says no")
        return carry_out(action)

    host.carry_out = refuses  # type: ignore[method-assign]
    host.ask("prepare", plan(cutover=cutover))
    assert host.run(20, lambda: host.phase() == given_up)
    host.apply(Abandoned(NEW))
    assert host.follow() == 1 and refused
    assert "ollama (stack-ollama-1) serves" in host.lines() and "Docker says no" in host.lines()
    assert host.run(20, lambda: old_serves(host)) and not host.state.trouble and host.boxes[OLD].runs == 0


def test_an_order_to_which_docker_gave_no_answer_is_looked_at_and_given_again(host: SimulatedHost) -> None:
    carry_out, lost = host.carry_out, list[str]()

    def stalled(action: Action) -> ActionFinished:
        if action.do not in ("check", "start", "stop") or host.rng.random() < 0.5 or len(lost) > 20:
            return carry_out(action)
        lost.append(action.do)
        if host.rng.random() < 0.5:
            carry_out(action)
        return ActionFinished(action, False, "timed out", stalled=True)

    host.carry_out = stalled  # type: ignore[method-assign]
    assert host.flip() == 0, host.lines()
    assert host.serves() == ([NEW], [NEW_GATEWAY]) and len(lost) > 2


@pytest.mark.parametrize("jump", [-3600, 3600])
@pytest.mark.parametrize("phase", ["loading", "prepared"])
def test_a_clock_that_was_set_while_the_switch_was_away_is_not_waited_for(
    host: SimulatedHost, phase: str, jump: float
) -> None:
    """`kill` is the switch's restart, in which it reads the clock anew."""
    host.pass_time(10_000)
    if phase == "loading":
        host.boxes[NEW].mode = "silent"
    host.ask("prepare", plan())
    assert host.run(30, lambda: host.phase() == phase)
    host.clock_set = jump
    if phase == "prepared":  # the coordinator is there, and goes on
        host.kill()
        host.turn()
        assert host.phase() == "prepared", host.lines()
        host.make_gateway()
        host.ask("commit", plan(gateway=NEW_GATEWAY))
        assert host.follow() == 0, host.lines()
        return
    began = host.now
    host.kill()
    assert host.run(100, lambda: old_serves(host)), host.state
    assert host.now - began < 60
    assert host.state.last and host.state.last.held_seconds and 0 <= host.state.last.held_seconds < 3700


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_clock_that_was_set_while_the_switch_was_away_cuts_no_answer(jump: float) -> None:
    """Of what is left after a change: it has its whole patience again."""
    host = SimulatedHost(random.Random(7), overlap=True)
    host.pass_time(10_000)
    host.drain_seconds = 500
    host.ask("prepare", plan(cutover="overlap"))
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(NEW, "overlap", NEW_GATEWAY))
    assert host.run(60, lambda: host.boxes[OLD_GATEWAY].ends_at is not None)
    host.clock_set, told = jump, host.now
    host.kill()
    assert host.follow(2000) == 0
    assert 490 < host.now - told < 600 and host.serves() == ([NEW], [NEW_GATEWAY])


def test_a_clock_that_was_set_back_while_the_switch_was_away_keeps_no_pause_and_no_former_name(
    host: SimulatedHost,
) -> None:
    host.pass_time(10_000)
    assert host.flip(model="other") == 0
    host.state.retry_at = host.now + 60
    host.journal = host.state
    host.clock_set = -3600
    host.kill()
    assert host.state.retry_at <= host.clock() + 60
    assert host.run(FORMER_NAME_SECONDS + 10, lambda: host.file.also == [])


@pytest.mark.parametrize("jump", [-3600, 0, 3600])
def test_a_journal_that_was_damaged_is_right_again_after_a_commit_though_the_clock_was_set(
    host: SimulatedHost, jump: float
) -> None:
    host.pass_time(10_000)
    host.state = dataclasses.replace(host.state, damage=Damage(host.clock(), "it is gone"))
    host.turn()
    host.clock_set = jump
    host.kill()
    assert host.state.damage
    assert host.flip() == 0 and host.state.damage is None


@pytest.mark.parametrize("jump", [-3600, 0, 3600])
def test_a_change_that_began_before_the_damage_makes_nothing_right_though_the_clock_was_set(
    host: SimulatedHost, jump: float
) -> None:
    host.pass_time(10_000)
    host.drain_seconds = 5
    host.ask("prepare", plan())
    assert host.follow() == 0
    host.make_gateway()
    host.ask("commit", plan(gateway=NEW_GATEWAY))
    assert host.run(14, lambda: host.phase() == "retiring")
    host.state = dataclasses.replace(host.state, damage=Damage(host.clock(), "the previous state was taken"))
    host.turn()
    host.clock_set = jump
    host.kill()
    assert host.follow() == 0 and host.state.damage


def test_a_coordinator_that_is_another_one_takes_the_change_over(host: SimulatedHost) -> None:
    host.apply(ChangeRequested("prepare", plan(), host.world(), coordinator="first"))
    host.run(2)
    host.apply(ChangeRequested("prepare", plan(), host.world(), coordinator="second"))
    assert host.state.transaction and host.state.transaction.coordinator == "second"


def test_every_phase_that_is_under_way_has_a_function() -> None:
    assert tuple(PHASES) == UNDER_WAY


def test_every_step_in_the_table_is_one_that_some_change_takes() -> None:
    taken = set[tuple[str, str]]()

    def ended(host: SimulatedHost) -> None:
        assert host.run(60, host.settled)
        taken.update(pairwise(host.phases()))

    ways: list[tuple[Cutover, str]] = [("hold", NEW), ("overlap", NEW), ("hold", OLD)]
    for cutover, to in ways:
        host = SimulatedHost(random.Random(7), overlap=cutover == "overlap")
        assert host.flip(cutover, to) == 0
        ended(host)
    host = SimulatedHost(random.Random(7))
    host.check_text = "refused"
    assert host.flip() == 1
    ended(host)
    for phase in LEASED:
        host = SimulatedHost(random.Random(7))
        host.make_gateway()
        if phase == "prepared":
            host.ask("prepare", plan())
        else:
            host.ask("commit", plan(gateway=NEW_GATEWAY))
        assert host.run(60, lambda host=host, phase=phase: host.phase() == phase)  # type: ignore[misc]
        host.apply(JournalWriteFailed("the disk is full"))
        ended(host)
    assert taken == STEPS


def test_a_step_that_is_not_in_the_table_is_an_error(host: SimulatedHost) -> None:
    host.ask("prepare", plan())
    with pytest.raises(AssertionError, match="retiring must not follow checking"):
        Turn(host.state, host.now).to("retiring")
