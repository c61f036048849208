"""A change of the engine across pods, on a cluster that is played: it ends where it should, from anywhere."""

import random
from dataclasses import replace

import pytest

from components.kubernetes.rolling import (
    PLACE_SECONDS,
    START_SECONDS,
    DeploymentSeen,
    PodSeen,
    Scale,
    failed,
    reached,
    steps,
)
from components.kubernetes.settings import KubernetesSettings
from tests.support.played_cluster import Played

OLD, NEW = "fleet-ollama-1", "fleet-vllm-2"
LOAD = 100.0


def settings(hosts: int, at_once: int = 1) -> KubernetesSettings:
    return KubernetesSettings(hosts=hosts, at_once=at_once, context="", namespace="changeover")


def ready(*names: str) -> tuple[PodSeen, ...]:
    return tuple(PodSeen(name=name, ready=True) for name in names)


def serving(count: int) -> DeploymentSeen:
    return DeploymentSeen(replicas=count, pods=ready(*(f"p{n}" for n in range(count))))


NONE = DeploymentSeen(replicas=0)


def test_a_flip_begins_with_one_pod_and_with_no_more_though_more_may_be_away() -> None:
    seen = {OLD: serving(4), NEW: NONE}
    assert steps(seen, NEW, settings(4, 3), proven=False) == [Scale(OLD, 3), Scale(NEW, 1)]


def test_once_the_first_serves_as_many_go_at_once_as_may_be_away() -> None:
    seen = {OLD: replace(serving(3), pods=ready("a", "b", "c")), NEW: serving(1)}
    assert steps(seen, NEW, settings(4, 2), proven=False) == [Scale(OLD, 1), Scale(NEW, 3)]


def test_while_one_is_away_nothing_more_is_taken() -> None:
    seen = {OLD: serving(2), NEW: DeploymentSeen(replicas=1, pods=(PodSeen(name="n"),))}
    assert steps(seen, NEW, settings(3), proven=False) == []
    assert steps({**seen, NEW: serving(1)}, NEW, settings(3), proven=False) == [Scale(OLD, 1), Scale(NEW, 2)]


def test_a_pod_that_was_just_taken_away_does_not_count_as_serving() -> None:
    seen = {OLD: DeploymentSeen(replicas=2, pods=ready("a", "b", "c")), NEW: DeploymentSeen(replicas=1)}
    assert steps(seen, NEW, settings(3), proven=True) == []


def test_what_does_not_serve_is_taken_first_and_costs_nothing() -> None:
    broken = DeploymentSeen(replicas=3, pods=(*ready("a", "b"), PodSeen(name="c")))
    assert steps({OLD: broken, NEW: NONE}, NEW, settings(3), proven=False) == [Scale(OLD, 2), Scale(NEW, 1)]
    dead = DeploymentSeen(replicas=3, pods=tuple(PodSeen(name=name) for name in "abc"))
    assert steps({OLD: dead, NEW: NONE}, NEW, settings(3), proven=True) == [Scale(OLD, 0), Scale(NEW, 3)]


def test_where_nothing_serves_the_first_is_alone_too_and_then_come_all() -> None:
    assert steps({NEW: NONE}, NEW, settings(3), proven=False) == [Scale(NEW, 1)]
    assert steps({NEW: serving(1)}, NEW, settings(3), proven=False) == [Scale(NEW, 3)]


def test_more_and_fewer_hosts_are_more_and_fewer_pods() -> None:
    assert steps({NEW: serving(3)}, NEW, settings(5), proven=True) == [Scale(NEW, 5)]
    assert steps({NEW: serving(5)}, NEW, settings(3), proven=True) == [Scale(NEW, 3)]
    assert reached({NEW: serving(3)}, NEW, 3) and not reached({NEW: serving(3)}, NEW, 5)


def test_a_flip_is_done_once_the_last_old_pod_has_gone() -> None:
    ending = DeploymentSeen(replicas=0, pods=(PodSeen(name="o", ready=True, ends=True),))
    assert not reached({OLD: ending, NEW: serving(3)}, NEW, 3)
    assert reached({OLD: NONE, NEW: serving(3)}, NEW, 3)


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        (PodSeen(name="n", restarts=1), "its engine ended, or failed its gate"),
        (PodSeen(name="n", restarts=1, served=True, unready=1), ""),
        (PodSeen(name="n", restarts=1, served=True, unready=LOAD + 61), "it was not ready after 161 s"),
        (PodSeen(name="n", waits=PLACE_SECONDS + 1), "no node had a place for it in 661 s"),
        (PodSeen(name="n", unready=LOAD + START_SECONDS + 1), "it was not ready after 161 s"),
        (PodSeen(name="n", unready=LOAD), ""),
        (PodSeen(name="n", waits=LOAD), ""),
        (PodSeen(name="n", restarts=1, ready=True), ""),
        (PodSeen(name="n", restarts=1, ends=True), ""),
    ],
)
def test_a_new_pod_that_will_not_serve_is_known_with_why(pod: PodSeen, why: str) -> None:
    seen = {OLD: serving(2), NEW: DeploymentSeen(replicas=1, pods=(pod,))}
    assert failed(seen, NEW, LOAD, proven=False) == ({"n": why} if why else {})


def test_an_engine_that_has_served_before_may_be_started_again() -> None:
    seen = {NEW: DeploymentSeen(replicas=1, pods=(PodSeen(name="n", restarts=1),))}
    assert failed(seen, NEW, LOAD, proven=True) == {}


def to_the_end(
    played: Played, to: str, wanted: KubernetesSettings, *, proven: bool, looks: int = 5000
) -> bool:
    """Goes on until `to` has all pods, one of them fails, or so many looks are over. Whether it has them."""
    for _ in range(looks):
        seen = played.seen()
        if reached(seen, to, wanted.hosts):
            return True
        if failed(seen, to, LOAD, proven=proven):
            return False
        for each in steps(seen, to, wanted, proven=proven):
            played.scale(each)
            if played.chance.random() < 0.3:
                played.turn()
        assert sum(played.replicas.values()) <= wanted.hosts, "there are never more pods than hosts"
        played.turn()
        assert played.serve >= wanted.left
    return False


def cluster(seed: int, good: frozenset[str]) -> tuple[Played, KubernetesSettings]:
    """One on which OLD serves from all hosts."""
    chance = random.Random(seed)
    hosts = chance.randrange(2, 8)
    played = Played(chance, hosts, good, {OLD: hosts, NEW: 0})
    while played.serve < hosts:
        played.turn()
    return played, settings(hosts, chance.randrange(1, hosts))


@pytest.mark.parametrize("seed", range(60))
def test_a_flip_ends_with_the_new_engine_and_enough_serve_all_the_time(seed: int) -> None:
    played, wanted = cluster(seed, frozenset((OLD, NEW)))
    assert to_the_end(played, NEW, wanted, proven=False)
    assert played.replicas == {OLD: 0, NEW: wanted.hosts} and set(played.of(OLD)) == set()


@pytest.mark.parametrize("seed", range(60))
def test_an_engine_that_fails_takes_one_host_and_all_comes_back(seed: int) -> None:
    played, wanted = cluster(seed, frozenset((OLD,)))
    assert not to_the_end(played, NEW, wanted, proven=False)
    assert played.replicas[NEW] == 1 and played.serve >= wanted.hosts - 1
    assert to_the_end(played, OLD, wanted, proven=True)
    assert played.replicas == {OLD: wanted.hosts, NEW: 0}


@pytest.mark.parametrize("seed", range(60))
def test_whoever_comes_after_a_kill_goes_on_to_either_engine(seed: int) -> None:
    played, wanted = cluster(seed, frozenset((OLD, NEW)))
    for _ in range(played.chance.randrange(1, 5)):
        to = played.chance.choice((OLD, NEW))
        to_the_end(played, to, wanted, proven=to == OLD, looks=played.chance.randrange(1, 30))
        for _ in range(played.chance.randrange(10)):  # nobody looks
            played.turn()
            assert played.serve >= wanted.left
    to = played.chance.choice((OLD, NEW))
    assert to_the_end(played, to, wanted, proven=to == OLD)
    assert {name: count for name, count in played.replicas.items() if count} == {to: wanted.hosts}


@pytest.mark.parametrize("seed", range(40))
def test_a_third_engine_takes_the_place_of_two_that_a_killed_flip_has_left(seed: int) -> None:
    third = "fleet-vllm-3"
    played, wanted = cluster(seed, frozenset((OLD, NEW, third)))
    to_the_end(played, NEW, wanted, proven=False, looks=played.chance.randrange(1, 30))
    played.replicas[third] = 0
    assert to_the_end(played, third, wanted, proven=False)
    assert played.replicas == {OLD: 0, NEW: 0, third: wanted.hosts}
