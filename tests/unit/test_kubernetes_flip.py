"""What a flip across pods takes, what is left meanwhile, and when it must not begin."""

import random
from dataclasses import replace

import pytest

from components.kubernetes.flip import INSIST, POD_SECONDS, Flip, Places, minutes, refused
from components.kubernetes.rolling import PLACE_SECONDS, START_SECONDS, DeploymentSeen, PodSeen, failed
from components.kubernetes.settings import KubernetesSettings
from tests.support.objects import plan
from tools.render import files
from traffic.busiest import REPLACED_SECONDS, Busiest, KnownMinutes, by_minute
from traffic.load import LoggedRequest

HOUR = 3600 * 480_000.0
"""The beginning of one, in seconds since the epoch."""
THREE = KubernetesSettings(hosts=3, at_once=1, context="", namespace="changeover")


def flip(**changed: object) -> Flip:
    found = plan("t4", **changed).flip
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("hosts", "at_once", "turns"), [(2, 1, 2), (3, 1, 3), (3, 2, 2), (10, 3, 4), (11, 3, 5), (100, 10, 11)]
)
def test_the_first_pod_is_changed_alone_and_then_as_many_at_once_as_may_be(
    hosts: int, at_once: int, turns: int
) -> None:
    assert flip(hosts=hosts, atOnce=at_once).turns == turns


def test_the_preview_says_how_long_a_flip_takes_and_what_is_left_meanwhile() -> None:
    lines = flip().lines
    assert lines[0] == "hosts: 3; a flip takes 1 of them away at a time, the first one alone"
    text = "\n".join(lines)
    assert "  RAM of each: 1.00 GiB ollama, 3.00 GiB vllm, hostMemoryGiB not set" in text
    assert "at a time, ollama: 24 requests, and on each host 8 requests, each with all of its 8192" in text
    assert "at a time, vllm: 174 requests, and on each host up to 58 requests: 14 if each" in text
    assert (
        "in a flip 2 hosts go on serving, and nobody waits as long as at most 16 requests come at a time"
        in text
    )
    assert (
        "time of a flip to vllm: 7 min = 3 times 132 s: 7 s for the cluster (estimate), and 125 s = " in text
    )
    assert "a flip takes at most 51 min where each new pod passes its gate: 3 times 1020 s: 600 s for" in text
    assert "wait in a change" not in text and "mode:" not in text, "these are of one host"


def test_the_longest_time_is_what_the_change_itself_waits_for() -> None:
    """A pod that is given up any later would make the preview's `at most` untrue."""
    made = flip()
    place, load = PLACE_SECONDS + 1, made.bounds.load + START_SECONDS + 1
    for pod in (PodSeen(name="n", waits=place), PodSeen(name="n", unready=load)):
        seen = {"new": DeploymentSeen(replicas=1, pods=(pod,))}
        assert failed(seen, "new", made.bounds.load, proven=True)
    assert made.worst == made.turns * (place - 1 + load - 1)


def test_the_time_is_that_of_all_pods_in_their_turns() -> None:
    one, other = flip(hosts=2), flip(hosts=100, atOnce=33)
    wait = one.cutover.waits["ollama"].expected
    assert one.seconds("ollama") == 2 * (POD_SECONDS + wait)
    assert other.seconds("ollama") == 4 * (POD_SECONDS + wait)
    assert "in a flip 1 host goes on serving" in "\n".join(one.lines)


def test_the_lines_are_the_same_in_both_positions() -> None:
    before, after = (files(plan("t4", engine=engine))["cutover.txt"] for engine in ("ollama", "vllm"))
    assert before.replace("engine: ollama", "engine: vllm", 1) == after


@pytest.mark.parametrize(
    ("seconds", "said"), [(59.2, "60 s"), (119, "119 s"), (120, "2 min"), (121, "3 min")]
)
def test_times_are_said_as_one_says_them(seconds: float, said: str) -> None:
    assert minutes(seconds) == said


OLLAMA, VLLM = Places("ollama", 8), Places("vllm", 58)


def test_a_flip_is_refused_where_the_busiest_minute_does_not_fit_what_is_left() -> None:
    assert refused(None, THREE, OLLAMA, VLLM) is None
    assert refused(Busiest(HOUR, 16.0), THREE, OLLAMA, VLLM) is None
    found = refused(Busiest(HOUR + 1860, 16.1), THREE, OLLAMA, VLLM)
    assert found is not None and found.text == (
        "in the busiest minute of the last hour (00:31 UTC) there were 16.1 requests at a time, and in a "
        "flip 2 hosts go on serving, which can work on 16 (8 each, ollama). Nothing was changed. Wait for a "
        "quieter hour, or add hosts: pulumi config set hosts 4. To flip all the same, while requests wait: "
        f"{INSIST}=1 pulumi up"
    )
    assert refused(Busiest(HOUR + 1860, 16.1), THREE, VLLM, OLLAMA) == found


def test_the_refusal_says_what_else_would_do() -> None:
    ten = replace(THREE, hosts=10, at_once=5)
    found = refused(Busiest(HOUR, 60.0), ten, OLLAMA, VLLM)
    assert found and "Let fewer be away at once: pulumi config set atOnce 2. " in found.text
    assert "pulumi config set hosts 13" in found.text
    found = refused(Busiest(HOUR, 90.0), ten, VLLM, OLLAMA)
    assert found and "With ollama all 10 hosts can work on 80: too few afterwards, too. " in found.text
    assert "atOnce" not in found.text


def test_of_two_engines_of_one_kind_the_smaller_counts() -> None:
    found = refused(Busiest(HOUR, 9.0), THREE, VLLM, Places("vllm", 4))
    assert found and "(4 each, vllm)" in found.reason


def ask(began: float, seconds: float, held: float = 0) -> LoggedRequest:
    began += HOUR
    return LoggedRequest(ended=began + seconds, total=seconds, held=held, engine="vllm-00000001")


def minute(*requests: LoggedRequest, until: float = 3600) -> Busiest | None:
    return KnownMinutes(by_minute(requests, HOUR, HOUR + until), HOUR, HOUR + until).busiest


def test_the_busiest_minute_is_that_with_the_most_requests_at_a_time() -> None:
    assert minute() is None
    found = minute(ask(60, 60), ask(130, 30), ask(135, 30), ask(150, 15))
    assert found == Busiest(HOUR + 120, 75 / 60)


def test_what_waits_counts_too_and_what_is_in_two_minutes_in_both() -> None:
    assert minute(ask(0, 120), ask(60, 60, held=30)) == Busiest(HOUR + 60, 2)


def test_what_came_before_the_hour_counts_for_what_of_it_is_inside() -> None:
    assert minute(ask(-600, 630)) == Busiest(HOUR, 0.5)
    assert minute(ask(-600, 300)) is None


def test_of_the_first_and_the_last_minute_only_what_is_inside_counts() -> None:
    found = by_minute([ask(-600, 1200)], HOUR + 30, HOUR + 90)
    assert found == {HOUR: 1.0, HOUR + 60: 1.0}, "half a minute of each, with one request"


def test_a_hold_and_what_is_worked_off_after_it_does_not_count() -> None:
    held = [ask(600 + n, 100 - n, held=90 - n) for n in range(40)]
    found = minute(ask(60, 30), *held)
    assert found is not None and found.at == HOUR + 60, "forty users wait for longer than one asks"


def test_of_what_was_kept_and_what_is_seen_no_request_counts_twice_and_none_is_lost() -> None:
    """Of a minute that both know, one has a part only."""
    kept = KnownMinutes({0: 9.0, 60: 2.0, 120: 5.0}, 0, 150)
    seen = KnownMinutes({120: 3.0, 180: 4.0}, 160, 240)
    assert seen.with_kept(kept, 60) == KnownMinutes({60: 2.0, 120: 5.0, 180: 4.0}, 0, 240)
    assert KnownMinutes({}, 0, 240).busiest is None


def test_a_time_of_which_neither_knows_ends_what_is_known() -> None:
    """Proxies that an update replaces are away for some minutes at most: more is not of its doing."""
    kept = KnownMinutes({0: 9.0}, 0, 100)
    for begins, since in ((100 + REPLACED_SECONDS, 0), (101 + REPLACED_SECONDS, 101 + REPLACED_SECONDS)):
        known = KnownMinutes({}, begins, HOUR).with_kept(kept, 0)
        assert known == KnownMinutes({0: 9.0}, since, HOUR), "what is known of it counts all the same"
    whole = KnownMinutes({}, -500, HOUR).with_kept(kept, 0)
    assert whole.since == -500, "nothing has been replaced since then"


@pytest.mark.parametrize("seed", range(20))
def test_no_second_of_the_hour_counts_twice(seed: int) -> None:
    """With requests that never wait, the minutes hold all of their seconds, and the busiest one no more than
    there were."""
    chance = random.Random(seed)
    requests = [ask(chance.uniform(0, 3000), chance.uniform(1, 300)) for _ in range(50)]
    found = minute(*requests)
    assert found is not None
    begins, ends = found.at, found.at + 60
    seconds = sum(max(0, min(ends, r.ended) - max(begins, r.began)) for r in requests)
    assert found.requests == pytest.approx(seconds / 60)
    for at in range(0, 3600, 60):
        other = sum(max(0, min(HOUR + at + 60, r.ended) - max(HOUR + at, r.began)) for r in requests)
        assert other / 60 <= found.requests + 1e-6
