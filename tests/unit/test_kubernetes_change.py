"""The step of `pulumi up` that changes which engine serves on a cluster, on one that is played."""

import gzip
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.kubernetes.change import (
    LEASE_SECONDS,
    PATIENCE_SECONDS,
    RENEW_SECONDS,
    UNREACHABLE,
    ClusterChange,
    Taken,
    _keep,
    live_words,
)
from components.kubernetes.flip import INSIST
from components.kubernetes.hour import LastHour
from components.kubernetes.kubectl import ClusterError, Missing
from components.kubernetes.looked import (
    ACTIVE,
    BUSIEST,
    TO,
    FlipPlan,
    LiveConfigMap,
    edited,
    engines_with_pods,
    kept_of,
    live_of,
    pods_words,
    read_plan,
    seen_of,
)
from components.kubernetes.nodes import NodesPlan
from components.kubernetes.objects import objects
from components.kubernetes.pods import WAITS
from components.kubernetes.rolling import START_SECONDS, failed
from components.labels import Labels, label
from proxy.finding import Wanted, parse_wanted
from proxy.route import FLEET_FILE
from stacks.cluster import cluster, flip_plan
from tests.support.objects import plan as blueprint
from tests.support.played_cluster import Kubectl, Played, stamp
from tools.github import CERTIFICATE
from traffic.log import requests

OLD, NEW = "fleet-ollama-1", "fleet-vllm-2"
FLEET = Labels(project="changeover", stack="fleet")


def plan(to: str = NEW, hosts: int = 3) -> FlipPlan:
    return FlipPlan(
        project="changeover",
        stack="fleet",
        namespace="changeover",
        context="",
        to=to,
        engine=to.partition("-")[2],
        service="fleet-engines",
        live="fleet-live",
        hosts=hosts,
        at_once=1,
        load=100,
        nodes=NodesPlan(
            project="changeover",
            stack="fleet",
            namespace="changeover",
            context="",
            daemon_set="fleet-weights",
            content="",
            sent=(),
        ),
    )


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ({"gate": "fails", "engine": "out of memory"}, ["  gate: fails", "  engine: out of memory"]),
        ({"gate": "waits", WAITS: "none here"}, ["  gate: waits", f"  {WAITS}: none here"]),
        ({}, ["  (no log of it can be read)"]),
    ],
)
def test_the_last_words_of_an_engine_that_has_not_begun_are_what_it_waits_for(
    logs: dict[str, str], said: list[str]
) -> None:
    def run(words: Sequence[str], stdin: str) -> str:
        if words[-1] == "--previous" or words[3] not in logs:
            raise ClusterError("container is waiting to start: PodInitializing")
        return logs[words[3]] + "\n"

    assert ClusterChange(plan(), run).last_words("pod-1") == said


def serving(seed: int = 0, *, good: tuple[str, ...] = (OLD, NEW), hosts: int = 3) -> Kubectl:
    """A cluster on which OLD serves from all hosts."""
    played = Played(random.Random(seed), hosts, frozenset(good), {OLD: hosts, NEW: 0})
    while played.serve < hosts:
        played.turn()
    told = {"service": "fleet-engines", "preferred": "ollama-1", "flip": False}
    live = {"metadata": {"annotations": {ACTIVE: OLD}}, "data": {FLEET_FILE: json.dumps(told)}}
    return Kubectl(played, {OLD: 8, NEW: 58}, live)


def change(at: Kubectl, told: FlipPlan, said: list[str] | None = None, **more: Any) -> ClusterChange:
    lines = [] if said is None else said
    return ClusterChange(
        told,
        at,
        clock=at.clock,
        steady=at.steady,
        sleep=more.pop("sleep", at.sleep),
        say=lines.append,
        **more,
    )


def told(at: Kubectl) -> Wanted:
    """What the proxies are told now."""
    return parse_wanted(at.live["data"][FLEET_FILE].encode())


@pytest.mark.parametrize("seed", range(20))
def test_a_flip_ends_with_the_new_engine_on_every_host_and_says_so(seed: int) -> None:
    at, said = serving(seed), list[str]()
    assert change(at, plan(), said).flip() == 0
    assert at.played.replicas == {OLD: 0, NEW: 3}
    assert said[-1] == "vllm-2 serves from 3 hosts." and any("1 of 3 hosts have" in line for line in said)
    assert live_of(at.live) == LiveConfigMap(active=NEW, preferred="vllm-2")
    assert change(at, plan(), said).flip() == 0 and said[-1].endswith("there is nothing to change.")


def test_meanwhile_the_proxies_are_told_that_both_serve() -> None:
    at, heard = serving(), set[tuple[bool, str]]()

    def sleep(seconds: float) -> None:
        heard.add((told(at).flip, told(at).preferred))
        at.sleep(seconds)

    assert change(at, plan(), sleep=sleep).flip() == 0
    assert heard == {(True, "ollama-1")}
    assert told(at) == Wanted("fleet-engines", "vllm-2", False)
    notes = [each for each in at.asked if each[0] == "annotate"]
    assert len(notes) == 2, "so that a node looks at once for what its pods are told"


@pytest.mark.parametrize("seed", range(20))
def test_an_engine_that_fails_its_gate_is_taken_back_with_why_and_what_to_type(seed: int) -> None:
    at, said = serving(seed, good=(OLD,)), list[str]()
    assert change(at, plan(), said).flip() == 1
    assert at.played.replicas == {OLD: 3, NEW: 0} and at.played.serve == 3
    text = "\n".join(said)
    assert "vllm-2 does not serve: fleet-vllm-2-" in text and "failed its gate" in text
    assert "  gate: the gate of fleet-vllm-2-" in text and "  engine: the engine of fleet-vllm-2-" in text
    assert said[-1] == (
        "ollama-1 serves from 3 hosts, as before. Nothing was lost. `pulumi up` tries the change again; with "
        "the settings of before it changes nothing."
    )
    assert live_of(at.live) == LiveConfigMap(active=OLD, preferred="ollama-1")
    assert change(at, plan(OLD)).flip() == 0, "with the settings of before there is nothing to do"


@pytest.mark.parametrize("good", [(OLD, NEW), (OLD,)])
def test_the_next_one_begins_at_once_after_one_that_has_ended(good: tuple[str, ...]) -> None:
    at = serving(good=good)
    change(at, plan()).flip()
    began = at.now
    change(at, plan(OLD)).take()
    assert at.now == began


@pytest.mark.parametrize("good", [(OLD, NEW), (OLD,)])
def test_a_change_leaves_a_certificate_of_what_served_all_the_time(good: tuple[str, ...]) -> None:
    at, kept = serving(good=good), dict[str, str]()
    change(at, plan(), keep=kept.update).flip()
    name = "20270115T080000Z-ollama-1-to-vllm-2"
    assert set(kept) == {f"{name}.json", f"{name}.md"}
    said = json.loads(kept[f"{name}.json"])
    result = "committed" if NEW in good else "failed"
    assert (said["result"], said["old"], said["new"]) == (result, "ollama-1", "vllm-2")
    assert said["fewest"] == 2 and said["steps"][0] == {"seconds": 0.0, "new": 0, "serve": 3}
    assert said["steps"][-1]["new"] == (3 if NEW in good else 0) and said["steps"][-1]["serve"] == 3
    assert bool(said["error"]) is (NEW not in good)
    page = kept[f"{name}.md"]
    assert CERTIFICATE.fullmatch(f"{name}.md"), "CI posts it"
    assert page.startswith(f"# ollama-1 → vllm-2: {result}\n") and "When the fewest served, 2 did." in page
    assert ("It failed: fleet-vllm-2-" in page) is (NEW not in good)
    assert f"| after | {'vllm-2' if NEW in good else 'ollama-1'} |" in page


def test_a_change_that_is_left_before_its_end_leaves_a_certificate_with_why() -> None:
    at, kept = serving(), dict[str, str]()

    def sleep(seconds: float) -> None:
        at.sleep(seconds)
        if at.played.of(NEW):
            at.broken = 5

    with pytest.raises(ClusterError, match="gave no answer"):
        change(at, plan(), sleep=sleep, keep=kept.update).flip()
    name = "20270115T080000Z-ollama-1-to-vllm-2"
    said, page = json.loads(kept[f"{name}.json"]), kept[f"{name}.md"]
    assert said["result"] == "left" and said["error"].startswith("the cluster gave no answer for 120 s")
    assert page.startswith("# ollama-1 → vllm-2: left\n") and "It was left: the cluster gave no" in page
    assert "| before | ollama-1 |\n| after | not known |" in page


def test_where_nothing_changes_there_is_no_certificate_and_one_that_can_not_be_kept_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at, kept = serving(), dict[str, str]()
    change(at, plan(OLD), keep=kept.update).flip()
    assert kept == {}
    _keep(tmp_path / "one", {"a.md": "text"})
    assert (tmp_path / "one" / "a.md").read_text() == "text"
    _keep(tmp_path / "one" / "a.md", {"b.md": "text"})
    assert "can't be written" in capsys.readouterr().err


class Killed(Exception):
    pass


@pytest.mark.parametrize("to", [OLD, NEW])
@pytest.mark.parametrize("seed", range(20))
def test_after_a_kill_the_next_one_ends_with_either_engine(seed: int, to: str) -> None:
    at = serving(seed)
    left = at.played.chance.randrange(1, 25)

    def sleep(seconds: float) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        at.sleep(seconds)

    try:
        change(at, plan(), sleep=sleep).flip()
    except Killed:
        for _ in range(at.played.chance.randrange(5)):
            at.sleep(1)
            assert at.played.serve >= 2
    assert change(at, plan(to)).flip() == 0
    assert {name: count for name, count in at.played.replicas.items() if count} == {to: 3}
    assert live_of(at.live) == LiveConfigMap(active=to, preferred=to.partition("-")[2])


def test_what_a_killed_one_left_is_waited_for_no_longer_than_its_lease() -> None:
    at = serving()

    def kill(seconds: float) -> None:
        raise Killed

    with pytest.raises(Killed):
        change(at, plan(), sleep=kill).flip()
    began = at.now
    second = change(at, plan())
    second.take()
    assert LEASE_SECONDS <= at.now - began < LEASE_SECONDS + 2


def test_a_second_update_changes_nothing_while_the_first_one_goes_on() -> None:
    at = serving()
    first = change(at, plan())
    first.take()

    def sleep(seconds: float) -> None:
        at.sleep(seconds)
        first.renew()

    before = dict(at.played.replicas)
    with pytest.raises(Taken, match="has changed nothing"):
        change(at, plan(), sleep=sleep).flip()
    assert at.played.replicas == before


def test_one_that_slept_too_long_leaves_it_to_who_has_taken_over() -> None:
    at = serving()
    first = change(at, plan())
    first.take()
    at.now += LEASE_SECONDS + 1
    change(at, plan(OLD)).take()
    with pytest.raises(Taken, match="leaves it to that"):
        first.roll(NEW, proven=False)


JUMPS = pytest.mark.parametrize("jump", [3600, -3600])


@JUMPS
def test_a_second_update_changes_nothing_while_the_first_one_goes_on_whatever_is_done_to_the_clock(
    jump: float,
) -> None:
    """Also where both are on the machine whose clock is set."""
    at = serving()
    first = change(at, plan())
    first.take()
    at.set_by = jump
    for _ in range(LEASE_SECONDS * 2):
        at.sleep(1)
        first.renew()

    def sleep(seconds: float) -> None:
        at.sleep(seconds)
        first.renew()

    with pytest.raises(Taken, match="has changed nothing"):
        change(at, plan(OLD), sleep=sleep).flip()


@JUMPS
def test_a_lease_is_renewed_as_often_as_before_whatever_is_done_to_the_clock(jump: float) -> None:
    at = serving()
    going = change(at, plan())
    going.take()
    for seconds in range(60):
        if seconds == 30:
            at.set_by = jump
        at.now += 1
        before = at.version
        going.renew()
        assert at.version == before or at.version == before + 1
    assert at.version in (1 + 60 // RENEW_SECONDS, 2 + 60 // RENEW_SECONDS)


def test_a_machine_that_was_asleep_looks_at_once_whether_it_still_has_its_lease() -> None:
    at = serving()
    first = change(at, plan())
    first.take()
    change(at, plan(OLD)).take()
    at.set_by = 60  # and its steady clock has not gone on
    first.steady = lambda: first._held[0]
    with pytest.raises(Taken, match="leaves it to that"):
        first.renew()


@JUMPS
def test_a_cluster_that_is_away_is_waited_for_just_as_long_whatever_is_done_to_the_clock(jump: float) -> None:
    at = serving()
    went: list[float] = []

    def sleep(seconds: float) -> None:
        at.sleep(seconds)
        if at.played.replicas[NEW]:
            at.broken = 5
            went.append(at.now)
            at.set_by = jump if len(went) > 3 else 0

    with pytest.raises(ClusterError, match=f"no answer for {PATIENCE_SECONDS} s"):
        change(at, plan(), sleep=sleep).flip()
    assert PATIENCE_SECONDS <= at.now - went[0] < PATIENCE_SECONDS + 5


@JUMPS
@pytest.mark.parametrize("good", [(OLD, NEW), (OLD,)])
def test_a_flip_goes_as_it_does_whatever_is_done_to_the_clock(good: tuple[str, ...], jump: float) -> None:
    ends = []
    for set_by in (0.0, jump):
        at, kept, turns = serving(good=good), dict[str, str](), itertools.count()

        def sleep(
            seconds: float, at: Kubectl = at, turns: Iterator[int] = turns, set_by: float = set_by
        ) -> None:
            if next(turns) == 2:
                at.set_by = set_by
            at.sleep(seconds)

        status = change(at, plan(), sleep=sleep, keep=kept.update).flip()
        ends.append((status, at.now, at.played.replicas, live_of(at.live), kept))
    assert ends[0] == ends[1]


def test_a_cluster_that_gives_no_answer_for_a_while_is_waited_for() -> None:
    at = serving()
    turn = iter(range(1000))

    def sleep(seconds: float) -> None:
        at.sleep(seconds)
        if next(turn) == 3:
            at.broken = 30

    assert change(at, plan(), sleep=sleep).flip() == 0


@pytest.mark.parametrize("how", ["broken", "unheard"])
@pytest.mark.parametrize("good", [(OLD, NEW), (OLD,)])
def test_whichever_question_gets_no_answer_a_change_that_has_begun_comes_to_its_end(
    good: tuple[str, ...], how: str
) -> None:
    """Where a cluster is away for three questions, or does what it is told and is not heard, from each one
    on, on the way there and on the way back."""
    expected = 0 if NEW in good else 1
    at = serving(good=good)
    assert change(at, plan()).flip() == expected
    for begins in range(len(at.asked)):
        at, said, count = serving(good=good), list[str](), itertools.count()

        def run(words: Sequence[str], stdin: str, at: Kubectl = at) -> str:
            if next(count) == begins:  # noqa: B023 # the flip ends before the next one begins
                setattr(at, how, 3)
            return at(words, stdin)

        going = ClusterChange(plan(), run, clock=at.clock, steady=at.steady, sleep=at.sleep, say=said.append)
        try:
            status = going.flip()
        except ClusterError:
            assert at.played.replicas == {OLD: 3, NEW: 0} and not live_of(at.live).to, said
            continue
        assert status == expected, said
        assert at.played.replicas == ({OLD: 0, NEW: 3} if NEW in good else {OLD: 3, NEW: 0})
        assert not live_of(at.live).to and live_of(at.live).active == (OLD, NEW)[NEW in good]


def test_what_serves_is_said_where_more_hosts_of_an_engine_do_not_come_up() -> None:
    at, said = serving(), list[str]()
    at.played.hosts, at.played.good = 5, frozenset()
    assert change(at, plan(OLD, 5), said).flip() == 1
    assert said[-1].startswith("3 hosts serve. What does not stays as it is")


def test_what_serves_is_said_where_what_served_does_not_come_back_on_every_host() -> None:
    at, said = serving(good=(OLD,)), list[str]()

    def sleep(seconds: float) -> None:
        if any("comes back on every host" in line for line in said):
            at.played.good = frozenset()
        at.sleep(seconds)

    assert change(at, plan(), said, sleep=sleep).flip() == 1
    assert said[-1].endswith(". 2 hosts serve. `pulumi up` tries it again.")


def test_a_cluster_that_gives_none_for_long_is_left_as_it_is() -> None:
    at = serving()

    def sleep(seconds: float) -> None:
        at.sleep(seconds)
        at.broken = 5

    with pytest.raises(ClusterError, match=f"no answer for {PATIENCE_SECONDS} s: Unable to connect") as error:
        change(at, plan(), sleep=sleep).flip()
    assert "All pods go on as they are" in str(error.value)


def test_a_pod_whose_node_has_not_ended_it_in_its_time_is_waited_for_no_longer() -> None:
    """Its node has lost its power, and nobody there can say that it is gone."""
    at = serving()
    at.played.pods["lost"] = (OLD, "lost")
    at.ended["lost"] = began = at.now

    def sleep(seconds: float) -> None:
        assert at.now < began + START_SECONDS + 600, "it would be waited for without end"
        at.sleep(seconds)

    assert change(at, plan(), sleep=sleep).flip() == 0
    assert at.now >= began + START_SECONDS


def busy(at: Kubectl, users: int) -> None:
    """So many requests at a time in one minute of the last hour."""
    minute = (at.now - 1800) // 60 * 60
    line = [minute + 60, 60_000, 0, 10, 200, "ollama-1", "acme", 1, 1, True, False, False]
    at.log = [line] * users


def test_a_flip_is_refused_before_anything_is_changed_where_what_comes_does_not_fit() -> None:
    at = serving()
    busy(at, 17)
    before, live = dict(at.played.replicas), live_of(at.live)
    with pytest.raises(
        ClusterError, match=r"there were 17\.0 requests at a time, and in a flip 2 hosts go on"
    ):
        change(at, plan()).flip()
    assert (at.played.replicas, live_of(at.live)) == (before, live)
    said = list[str]()
    assert change(at, plan(), said, insist=True).flip() == 0
    assert any(line.startswith(f"{INSIST} is set, so it begins all the same: ") for line in said)
    assert not any("Nothing was changed" in line for line in said)


@pytest.mark.parametrize("where", ["log", "ends"])
def test_a_proxy_that_was_replaced_and_ends_what_it_carries_counts_and_need_not_answer(where: str) -> None:
    """What has not ended is in what a proxy says as if it ended now."""
    at, said = serving(), list[str]()
    streams = [[at.now, 540_000, 0, 10, 200, "ollama-1", "acme", None, None, True, False, False]] * 40
    setattr(at, where, streams)
    with pytest.raises(ClusterError, match=r"there were 40\.0 requests at a time"):
        change(at, plan(), said).flip()
    assert at.played.replicas == {OLD: 3, NEW: 0} and not said


def test_what_came_in_the_last_hour_is_known_after_the_proxies_of_then_and_their_logs_have_gone() -> None:
    at, said = serving(), list[str]()
    busy(at, 17)
    assert change(at, plan(), insist=True).flip() == 0
    at.log, at.began = [], at.now
    with pytest.raises(ClusterError, match=r"there were 17\.0 requests at a time"):
        change(at, plan(OLD)).flip()
    at.now += 3600
    assert change(at, plan(OLD), said).flip() == 0
    assert not [line for line in said if "is not known" in line]


@pytest.mark.parametrize("users", [0, 3])
def test_a_log_that_begins_in_the_last_hour_is_said_to(users: int) -> None:
    at, said = serving(), list[str]()
    busy(at, users)
    at.began = at.now - 600
    assert change(at, plan(), said).flip() == 0
    assert said[0] == "What came before 07:50 UTC is not known in full: the proxies' logs begin then."
    for text in ("somebody else's", "[1]", "3", '"minutes"', '{"minutes": [[1]]}', '{"at": 1}', "null"):
        at.live["metadata"]["annotations"][BUSIEST] = text
        assert kept_of(at.live) is None


def minutes(at: Kubectl, ago: dict[int, int]) -> list[list[Any]]:
    """A log with so many requests at a time in the minutes that began so many minutes ago."""
    this = at.now // 60 * 60
    return [
        [this - 60 * each + 60, 60_000, 0, 10, 200, "ollama-1", "acme", 1, 1, True, False, False]
        for each, count in ago.items()
        for _ in range(count)
    ]


def test_every_minute_of_the_last_hour_is_known_after_a_flip_and_not_only_its_busiest() -> None:
    at, said = serving(), list[str]()
    at.log, at.began = minutes(at, {50: 16, 10: 15}), at.now - 7200
    assert change(at, plan(), said).flip() == 0
    at.log, at.began = [], at.now + 60  # its proxies have been replaced
    at.now += 15 * 60
    at.parallel = {OLD: 7, NEW: 58}
    with pytest.raises(ClusterError, match=r"there were 15\.0 requests at a time.*can work on 14"):
        change(at, plan(OLD), said).flip()
    assert not [line for line in said if "is not known" in line]


def test_what_the_logs_say_at_the_end_of_a_flip_is_known_after_it() -> None:
    at = serving()

    def sleep(seconds: float) -> None:
        at.log = minutes(at, {1: 17})
        at.sleep(seconds)

    assert change(at, plan(), sleep=sleep).flip() == 0
    at.log, at.began = [], at.now + 60
    at.now += 120
    with pytest.raises(ClusterError, match=r"there were 17\.0 requests at a time"):
        change(at, plan(OLD)).flip()


def test_an_update_that_changes_no_engine_keeps_what_came_before_it_replaces_the_proxies() -> None:
    at, said = serving(), list[str]()
    at.log, at.began = minutes(at, {50: 17}), at.now - 7200
    assert change(at, plan(OLD)).flip() == 0
    at.log, at.began = [], at.now + 60
    at.now += 120
    with pytest.raises(ClusterError, match=r"there were 17\.0 requests at a time"):
        change(at, plan(), said).flip()
    assert not said


def test_the_step_that_brings_another_code_keeps_what_came_before_it_replaces_the_proxies() -> None:
    at, said = serving(), list[str]()
    at.log, at.began = minutes(at, {50: 17}), at.now - 7200
    LastHour(FLEET, at).keep(at.now)
    at.log, at.began = [], at.now + 60
    at.now += 120
    with pytest.raises(ClusterError, match=r"there were 17\.0 requests at a time"):
        change(at, plan(), said).flip()
    at.broken = 1
    LastHour(FLEET, at).keep(at.now)


def test_after_proxies_went_by_themselves_what_was_kept_counts_and_from_when_on_it_is_all_is_said() -> None:
    at, said = serving(), list[str]()
    at.log, at.began = minutes(at, {20: 17}), at.now - 7200
    LastHour(FLEET, at).keep(at.now)
    at.now += 1500
    at.log, at.began = [], at.now - 600
    with pytest.raises(ClusterError, match=r"there were 17\.0 requests at a time"):
        change(at, plan(), said).flip()
    assert said == ["What came before 08:15 UTC is not known in full: the proxies' logs begin then."]


def test_without_any_proxy_nothing_is_known() -> None:
    at = serving()

    def run(words: Sequence[str], stdin: str) -> str:
        return '{"items": []}' if words[:2] == ["get", "pods"] else at(words, stdin)

    assert LastHour(FLEET, run).look(at.now).since == at.now


def test_the_busiest_minute_that_an_earlier_version_has_kept_counts() -> None:
    at, said = serving(), list[str]()
    kept = {"at": at.now - 1800, "requests": 17.0}
    at.live["metadata"]["annotations"][BUSIEST] = json.dumps(kept)
    with pytest.raises(ClusterError, match=r"there were 17\.0 requests at a time"):
        change(at, plan(), said).flip()
    assert not said, "the proxies' logs say the rest"


def test_a_flip_that_has_begun_is_ended_whatever_comes() -> None:
    at = serving()
    at.live["metadata"]["annotations"][TO] = NEW
    busy(at, 17)
    assert change(at, plan()).flip() == 0


@pytest.mark.parametrize("left", [OLD, "fleet-vllm-3"])
def test_what_was_left_of_another_change_lets_none_begin_unseen(left: str) -> None:
    """A change of `hosts`, say, or one to an engine that is no longer wanted."""
    at, brought = serving(), list[bool]()
    at.live["metadata"]["annotations"][TO] = left
    busy(at, 17)
    with pytest.raises(ClusterError, match=r"there were 17\.0 requests at a time"):
        change(at, plan(), nodes=lambda: brought.append(True)).flip()
    assert brought and at.played.replicas == {OLD: 3, NEW: 0}


@pytest.mark.parametrize("to", [OLD, NEW])
def test_a_flip_that_was_killed_is_ended_with_either_engine_though_a_node_is_away(to: str) -> None:
    at = serving()

    def sleep(seconds: float) -> None:
        if at.played.of(NEW):
            raise Killed
        at.sleep(seconds)

    with pytest.raises(Killed):
        change(at, plan(), sleep=sleep).flip()
    at.away = {"node1"}
    assert change(at, plan(to)).flip() == 0
    assert {name: count for name, count in at.played.replicas.items() if count} == {to: 3}
    assert live_of(at.live) == LiveConfigMap(active=to, preferred=to.partition("-")[2])


@pytest.mark.parametrize(
    ("were", "hosts", "serve", "words"),
    [
        (3, 2, 3, "3 hosts, as before. Nothing was lost. `pulumi up` tries the change again; with the sett"),
        (2, 3, 2, "2 hosts, as before. Nothing was lost. `pulumi up` tries the change again; with the sett"),
        (3, 2, 2, "2 hosts. Nothing was lost. `pulumi up` tries the change again; with the settings of bef"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2])
def test_what_served_comes_back_on_as_many_hosts_as_before_though_the_change_has_others(
    were: int, hosts: int, serve: int, words: str, at_once: int
) -> None:
    """In the last case a node had gone for good, and the change has no host on it."""
    at, said, kept = serving(good=(OLD,), hosts=were), list[str](), dict[str, str]()
    at.played.hosts = max(hosts, serve)
    if serve < were:
        at.played.pods[next(iter(at.played.of(OLD)))] = (OLD, "waits")
    fewest = min(serve, hosts) - 1

    def sleep(seconds: float) -> None:
        at.sleep(seconds)
        assert at.played.serve >= fewest

    its = replace(plan(hosts=hosts), at_once=at_once if hosts > 2 else 1)
    assert change(at, its, said, sleep=sleep, keep=kept.update).flip() == 1
    assert at.played.replicas == {OLD: serve, NEW: 0} and at.played.serve == serve
    assert said[-1].startswith(f"ollama-1 serves from {words}")
    assert said[-1].endswith("changes nothing." if serve == were else "before ollama-1 goes on serving.")


def test_what_served_comes_back_on_no_more_hosts_than_have_a_place() -> None:
    """A node takes no pods, though one there still serves: for that the change has fewer hosts."""
    at, said = serving(good=(OLD,)), list[str]()
    at.away, at.played.hosts = {"node3"}, 2
    assert change(at, replace(plan(hosts=2), at_once=1), said).flip() == 1
    assert at.played.replicas == {OLD: 2, NEW: 0} and at.played.serve == 2
    assert said[-1].startswith("ollama-1 serves from 2 hosts. Nothing was lost.")


def test_as_fewer_hosts_come_back_one_at_a_time_some_host_serves_all_the_time() -> None:
    """From two hosts to three, two at once, and the new engine fails once one of it serves."""
    for seed in range(20):
        at, said = serving(seed, hosts=2), list[str]()
        at.played.hosts = 3

        def sleep(seconds: float, at: Kubectl = at) -> None:
            if "ready" in at.played.of(NEW).values():
                at.played.good = frozenset((OLD,))
            at.sleep(seconds)
            assert at.played.serve >= 1

        change(at, replace(plan(), at_once=2), said, sleep=sleep).flip()
        if at.played.replicas[OLD]:
            assert said[-1].startswith("ollama-1 serves from 2 hosts, as before."), said


def test_nothing_is_said_of_how_many_hosts_served_before_a_change_that_another_update_began() -> None:
    at, said = serving(good=(OLD,)), list[str]()
    at.live["metadata"]["annotations"][TO] = NEW
    assert change(at, plan(), said).flip() == 1
    assert said[-1] == (
        "ollama-1 serves from 3 hosts. Nothing was lost. `pulumi up` tries the change again; with the "
        "settings of before ollama-1 goes on serving."
    )


def test_where_nobody_knows_what_comes_it_is_not_begun_unless_somebody_insists() -> None:
    at = serving()
    at.log = [["nonsense"]]
    with pytest.raises(ClusterError, match=rf"can't be read.*{INSIST}=1 pulumi up"):
        change(at, plan()).flip()
    assert at.played.replicas == {OLD: 3, NEW: 0}


def test_a_log_that_breaks_off_anywhere_is_none() -> None:
    line = [1.0, 60_000, 0, 10, 200, "ollama-1", "acme", 1, 1, True, False, False]
    lines = [f"{json.dumps(each)}\n".encode() for each in (line, {"since": 0.5, "unreadable": 0})]
    whole = gzip.compress(b"".join(lines))
    found, since = requests(whole)
    assert (len(found), since) == (1, 0.5)
    for broken in (gzip.compress(lines[0]), *(whole[:length] for length in range(len(whole)))):
        with pytest.raises((ValueError, OSError)):
            requests(broken)


def test_where_a_node_lacks_its_weights_it_is_not_begun_unless_somebody_insists() -> None:
    at = serving()
    at.weights = {"node1": True, "node2": False, "node3": False}
    with pytest.raises(
        ClusterError, match=rf"lack weights, or images to fetch them: node2, node3\. .*{INSIST}=1"
    ):
        change(at, plan()).flip()
    assert at.played.replicas == {OLD: 3, NEW: 0}
    assert change(at, plan(OLD)).flip() == 0, "what serves is what is wanted"
    assert change(at, plan(), insist=True).flip() == 0


def test_where_a_node_takes_no_pods_it_is_not_begun_unless_somebody_insists_or_the_others_do() -> None:
    at = serving()
    at.away = {"node2"}
    with pytest.raises(ClusterError) as error:
        change(at, plan()).flip()
    assert "have places for 2 of 3 engines now, and these take none: node2. Nothing was ch" in str(
        error.value
    )
    assert f"{INSIST}=1 pulumi up" in str(error.value)
    assert at.played.replicas == {OLD: 3, NEW: 0} and at.lease is None and not live_of(at.live).to
    assert change(at, plan(OLD)).flip() == 0, "what serves is what is wanted"
    assert change(at, plan(), insist=True).flip() == 0
    at = serving()
    at.away, at.played.hosts = {"node2"}, 4
    assert change(at, plan()).flip() == 0


def test_a_host_whose_node_is_away_is_not_waited_for_in_an_update_without_a_flip() -> None:
    at = serving()
    at.away = {"node2"}
    pod = next(iter(at.played.of(OLD)))
    at.played.pods[pod] = (OLD, "waits")
    before = at.now
    with pytest.raises(ClusterError, match=r"places for 2 of 3 engines now.*node2\. Nothing was changed"):
        change(at, plan(OLD)).flip()
    assert at.now == before
    assert change(at, plan(OLD, 2)).flip() == 0


def test_what_the_cluster_refuses_is_said_at_once() -> None:
    at, said = serving(), list[str]()
    began = at.now

    def run(words: Sequence[str], stdin: str) -> str:
        if words[0] == "scale":
            raise ClusterError('Error from server (Forbidden): deployments "x" is forbidden')
        return at(words, stdin)

    with pytest.raises(ClusterError, match="is forbidden"):
        ClusterChange(plan(), run, clock=at.clock, steady=at.steady, sleep=at.sleep, say=said.append).flip()
    assert at.now - began < 10


def test_nodes_get_what_they_have_lost_before_anything_is_changed() -> None:
    at = serving()
    at.weights = {"node1": True, "node2": False}

    def bring() -> None:
        assert at.played.replicas == {OLD: 3, NEW: 0} and at.lease is None
        at.weights["node2"] = True

    assert change(at, plan(), nodes=bring).flip() == 0


def test_what_keeps_a_node_from_it_is_said_with_the_nodes_and_how_to_insist() -> None:
    at = serving()
    at.weights = {"node1": True, "node2": False}

    def bring() -> None:
        raise ClusterError("the model tiny is not in /models. To build it, run: make up")

    with pytest.raises(ClusterError) as error:
        change(at, plan(), nodes=bring).flip()
    first, second = str(error.value).splitlines()
    assert first == "the model tiny is not in /models. To build it, run: make up"
    assert "lack weights, or images to fetch them: node2" in second and f"{INSIST}=1 pulumi up" in second
    assert at.played.replicas == {OLD: 3, NEW: 0} and at.lease is None
    assert change(at, plan(), nodes=bring, insist=True).flip() == 0


def test_no_node_is_looked_at_where_nothing_changes_or_a_change_goes_on() -> None:
    def bring() -> None:
        raise AssertionError

    assert change(serving(), plan(OLD), nodes=bring).flip() == 0
    at = serving()
    at.live["metadata"]["annotations"][TO] = NEW
    assert change(at, plan(), nodes=bring).flip() == 0


def test_more_and_fewer_hosts_of_the_same_engine_are_no_flip() -> None:
    at = serving()
    busy(at, 100)
    at.played.hosts = 5
    assert change(at, plan(OLD, 5)).flip() == 0 and at.played.replicas[OLD] == 5
    assert change(at, plan(OLD, 2)).flip() == 0 and at.played.replicas[OLD] == 2


@pytest.mark.parametrize("good", [(NEW,), ()])
def test_the_first_engine_of_a_stack_serves_or_stays_to_be_looked_at(good: tuple[str, ...]) -> None:
    at, said = serving(), list[str]()
    at.played = Played(random.Random(1), 3, frozenset(good), {NEW: 0})
    at.live["metadata"]["annotations"] = {}
    assert change(at, plan(), said).flip() == (0 if good else 1)
    if not good:
        assert said[-1].startswith("There is nothing that served before.") and at.played.replicas == {NEW: 1}


def test_the_next_update_tries_anew_what_failed_and_stayed_to_be_looked_at() -> None:
    at, said = serving(), list[str]()
    at.played = Played(random.Random(1), 3, frozenset(), {NEW: 0})
    at.live["metadata"]["annotations"] = {}
    assert change(at, plan()).flip() == 1
    at.played.good = frozenset((NEW,))
    assert change(at, plan(), said).flip() == 0
    assert at.played.replicas == {NEW: 3} and at.played.serve == 3
    (again,) = [line for line in said if line.startswith("Another pod takes the place of ")]
    assert "failed its gate" in again


def test_what_fails_in_the_same_change_is_not_tried_again() -> None:
    at = serving(good=(OLD,))
    assert change(at, plan()).flip() == 1
    assert not [words for words in at.asked if words[0] == "delete"]


def test_what_there_is_to_be_is_said_in_a_line_for_a_preview() -> None:
    at = serving()
    assert live_words(at, FLEET, at.now) == f"{OLD}: 3"
    at.played.replicas[NEW] = 1
    assert live_words(at, FLEET, at.now) == f"{OLD}: 3, {NEW}: 1"
    at.broken = 1
    assert live_words(at, FLEET, at.now) == UNREACHABLE


def test_a_change_that_was_left_shows_in_a_preview_though_every_pod_is_as_it_was() -> None:
    """Else `pulumi up` with the settings of before would see nothing to do, and the stack would stay told of
    a change that nobody makes."""
    at = serving()

    def kill(seconds: float) -> None:
        raise Killed

    def run(words: Sequence[str], stdin: str) -> str:
        if words[0] == "scale":
            raise Killed
        return at(words, stdin)

    with pytest.raises(Killed):
        ClusterChange(plan(), run, clock=at.clock, steady=at.steady, sleep=kill, say=lambda line: None).flip()
    assert at.played.replicas == {OLD: 3, NEW: 0} and live_of(at.live).to == NEW
    assert live_words(at, FLEET, at.now) == f"{OLD}: 3; a change to {NEW} has not ended"
    assert change(at, plan(OLD)).flip() == 0
    assert live_words(at, FLEET, at.now) == f"{OLD}: 3"


def edit(at: Kubectl, **told: Any) -> None:
    """Somebody changes what the proxies are told."""
    at.live["data"][FLEET_FILE] = json.dumps({**json.loads(at.live["data"][FLEET_FILE]), **told})


def edit_note(at: Kubectl, active: str) -> None:
    at.live["metadata"]["annotations"][ACTIVE] = active


def break_it(at: Kubectl, text: str) -> None:
    at.live["data"][FLEET_FILE] = text


@pytest.mark.parametrize(
    ("by_hand", "words"),
    [
        (
            lambda at: edit(at, service="other; engines"),
            "the proxies are told to look for engines in the Service other??engines",
        ),
        (lambda at: edit(at, preferred="vllm-2"), "the proxies are told that vllm-2 is to serve"),
        (lambda at: edit(at, preferred=""), "the proxies are told that nothing is to serve"),
        (lambda at: edit(at, flip=True), "the proxies are told of a flip that nobody makes"),
        (lambda at: edit(at, flip="no"), "what the proxies are told can't be read"),
        (lambda at: break_it(at, "{"), "what the proxies are told can't be read"),
        (lambda at: break_it(at, "[]"), "what the proxies are told can't be read"),
        (lambda at: at.live["data"].clear(), "what the proxies are told can't be read"),
        (lambda at: edit_note(at, NEW), f"{NEW} is written down as what serves"),
        (lambda at: edit_note(at, ""), "what serves is not written down"),
    ],
)
def test_what_the_proxies_are_told_by_hand_shows_in_a_preview_and_an_update_puts_it_right(
    by_hand: Callable[[Kubectl], None], words: str
) -> None:
    at, said, kept = serving(), list[str](), dict[str, str]()
    busy(at, 17)
    by_hand(at)
    assert live_words(at, FLEET, at.now) == f"{OLD}: 3; {words}"
    assert change(at, plan(OLD), said, keep=kept.update).flip() == 0
    assert said == ["ollama-1 serves from 3 hosts: the proxies are told so again."]
    assert told(at) == Wanted("fleet-engines", "ollama-1", False)
    assert live_of(at.live) == LiveConfigMap(active=OLD, preferred="ollama-1")
    assert live_words(at, FLEET, at.now) == plan(OLD).served
    assert kept == {} and not [words for words in at.asked if words[0] in ("scale", "delete")]


def test_what_the_proxies_are_told_is_put_right_by_a_flip_and_by_its_way_back() -> None:
    for good, engine in (((OLD, NEW), "vllm-2"), ((OLD,), "ollama-1")):
        at = serving(good=good)
        edit(at, service="other")
        change(at, plan()).flip()
        assert told(at) == Wanted("fleet-engines", engine, False)


def test_a_preview_of_a_stack_whose_proxies_are_told_nothing_says_so_too() -> None:
    at = serving()

    def run(words: Sequence[str], stdin: str) -> str:
        if words[:2] == ["get", "configmap"]:
            raise Missing('Error from server (NotFound): configmaps "fleet-live" not found')
        return at(words, stdin)

    assert live_words(run, FLEET, at.now) == f"{OLD}: 3; what serves is not written down"


def test_a_deployment_that_is_not_there_changes_nothing() -> None:
    at = serving()
    with pytest.raises(ClusterError, match=r"there is no Deployment other\. Nothing was changed"):
        change(at, plan("other")).flip()
    assert at.played.replicas == {OLD: 3, NEW: 0}


def test_the_plan_is_what_the_objects_are_called() -> None:
    args = cluster(blueprint("t4"), Labels(project="changeover", stack="t4"))
    made = flip_plan(blueprint("t4"), args)
    assert made.to.startswith(f"t4-{made.engine}-") and made.engine.startswith("vllm-")
    assert (made.service, made.live, made.hosts, made.at_once) == ("t4-engines", "t4-live", 3, 1)
    assert read_plan(made.text) == made
    with pytest.raises(ValueError, match="must not have the key 'host'"):
        read_plan(made.text.replace('"hosts"', '"host"'))


def test_what_a_flip_leaves_of_the_objects_as_they_are_made_is_nothing_that_a_preview_shows() -> None:
    args = cluster(blueprint("t4"), Labels(project="changeover", stack="t4"))
    made = flip_plan(blueprint("t4"), args)
    there = [
        {**each, "spec": {**each["spec"], "replicas": 3}} if each["metadata"]["name"] == made.to else each
        for each in objects(args)
    ]
    engines = engines_with_pods(there)
    assert engines == {made.to: made.engine}
    left = LiveConfigMap(active=made.to, preferred=made.engine).patch(made.service)
    assert edited(live_of(left), made.service, engines) == []
    assert pods_words({name: each.replicas for name, each in seen_of(there, 0).items()}) == made.served


def test_a_pod_is_known_as_the_cluster_says_it() -> None:
    def pod(name: str, ready: str, since: float, **status: Any) -> dict[str, Any]:
        conditions = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": ready, "lastTransitionTime": stamp(since)},
        ]
        return {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {label("role"): "engine", label("deployment"): NEW},
                "creationTimestamp": stamp(1000),
            },
            "status": {"startTime": stamp(1010), "conditions": conditions, **status},
        }

    deployment = {
        "kind": "Deployment",
        "metadata": {"name": NEW, "labels": {label("role"): "engine"}},
        "spec": {},
    }
    waits = pod("c", "False", 1000)
    waits["status"] = {"conditions": [{"type": "PodScheduled", "status": "False"}]}
    items = [
        deployment,
        pod("a", "True", 1060, containerStatuses=[{"name": "engine", "restartCount": 2}]),
        pod("b", "False", 1005),
        waits,
        pod("d", "False", 1000, phase="Failed"),
        {"kind": "Pod", "metadata": {"name": "e", "labels": {label("role"): "proxy"}}},
    ]
    seen = seen_of(items, 1100)[NEW]
    assert seen.replicas == 1, "the cluster's own default"
    healthy, unhealthy, unscheduled = seen.pods
    assert not any(each.served for each in seen.pods), "the cluster does not say when an engine began"
    assert (healthy.ready, healthy.restarts, healthy.waits) == (True, 2, None)
    assert (unhealthy.ready, unhealthy.unready, unhealthy.waits) == (False, 90, None)
    assert (unscheduled.ready, unscheduled.unready, unscheduled.waits) == (False, 0, 100)


@pytest.mark.parametrize(
    ("turned", "state", "served"),
    [
        (1090, {"running": {"startedAt": stamp(1050)}}, True),  # it was ready, and is not for a moment
        (1010, {"running": {"startedAt": stamp(1050)}}, False),  # it has not been ready yet
        (1040, {"running": {"startedAt": stamp(1050)}}, False),  # it was, before it ended and began anew
        (1090, {"waiting": {"reason": "CrashLoopBackOff"}}, False),
        (None, {"running": {"startedAt": stamp(1050)}}, False),
    ],
)
def test_whether_an_engine_has_served_since_it_began_is_known_from_the_cluster_alone(
    turned: float | None, state: dict[str, Any], served: bool
) -> None:
    ready = {"type": "Ready", "status": "False"} | ({"lastTransitionTime": stamp(turned)} if turned else {})
    labels = {label("role"): "engine", label("deployment"): NEW}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "a", "labels": labels, "creationTimestamp": stamp(1000)},
        "status": {
            "startTime": stamp(1010),
            "conditions": [{"type": "PodScheduled", "status": "True"}, ready],
            "containerStatuses": [
                {"name": "gate", "restartCount": 0, "state": {"running": {"startedAt": stamp(1011)}}},
                {"name": "engine", "restartCount": 1, "state": state},
            ],
        },
    }
    deployment = {"kind": "Deployment", "metadata": {"name": NEW, "labels": labels}, "spec": {"replicas": 1}}
    seen = seen_of([deployment, pod], 1100)
    assert seen[NEW].pods[0].served is served
    assert bool(failed(seen, NEW, 390, proven=False)) is not served
