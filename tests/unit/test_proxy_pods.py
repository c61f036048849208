"""Which pod a request is sent to: never one that is full, and the one that knows its conversation."""

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from proxy.pods import FULLER, GONE_SECONDS, REMEMBERED, Fleet, Pod, Pods
from proxy.route import RoutedEngine

VLLM = RoutedEngine("vllm-00000001", "vllm", "", 8000, "tiny", 4, 1024)
OLLAMA = replace(VLLM, name="ollama-00000002", kind="ollama", at_a_time=2)
TALK = b"a conversation"


def pod(number: int, engine: RoutedEngine = VLLM, elsewhere: int = 0) -> Pod:
    return Pod(engine=replace(engine, host=f"10.0.0.{number}"), elsewhere=elsewhere)


def fleet(*pods: Pod, flip: bool = False) -> Fleet:
    return Fleet(pods=pods, preferred=VLLM.name, flip=flip)


def of(*pods: Pod, flip: bool = False) -> Pods:
    made = Pods()
    made.change(fleet(*pods, flip=flip))
    return made


def at_a_time(pod: Pod) -> int:
    return pod.engine.at_a_time


def host(pods: Pods, conversation: bytes = b"", now: float = 0) -> str | None:
    chosen = pods.pick(conversation, now)
    return None if chosen is None else chosen.host


def test_without_pods_there_is_nothing_to_ask() -> None:
    assert host(Pods()) is None


def test_who_has_no_conversation_goes_where_the_least_is_to_do() -> None:
    pods = of(pod(1), pod(2), pod(3))
    assert {host(pods) for _ in range(3)} == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    pods.left("10.0.0.2")
    assert host(pods) == "10.0.0.2"


def test_what_other_proxies_have_there_counts() -> None:
    pods = of(pod(1, elsewhere=3), pod(2, elsewhere=4), pod(3, elsewhere=4))
    assert [host(pods), host(pods)] == ["10.0.0.1", None]


def test_the_least_is_meant_by_how_many_an_engine_works_on() -> None:
    pods = of(pod(1, elsewhere=1), pod(2, OLLAMA, elsewhere=1), flip=True)
    assert host(pods) == "10.0.0.1"


def test_a_conversation_stays_with_its_pod_whatever_comes_in_between() -> None:
    pods = of(pod(1), pod(2), pod(3))
    home = host(pods, TALK)
    assert home
    for _ in range(20):
        pods.left(home)
        assert host(pods, TALK) == home
        other = host(pods)
        assert other and other != home
        pods.left(other)


def test_a_conversation_leaves_the_fuller_pod_and_stays_with_the_other_from_then_on() -> None:
    pods = of(pod(1), pod(2))
    home, again, away = (host(pods, TALK) for _ in range(3))
    assert home == again and away != home, "with a third one it would have three, and the other pod none"
    pods.left(str(home))
    assert host(pods, TALK) == away


def test_the_bound_is_of_a_pods_part_of_all_that_runs() -> None:
    # with one more there are 13 at three pods: 13 / 3 * 1.25 = 5.4, so up to 6, that one included
    sizes = replace(VLLM, at_a_time=8)
    for own, kept in ((5, True), (6, False)):
        pods = of(pod(1, sizes), pod(2, sizes), pod(3, sizes))
        home = host(pods, TALK)
        assert home
        pods.left(home)
        others = [each for each in ("10.0.0.1", "10.0.0.2", "10.0.0.3") if each != home]
        loads = {home: own, others[0]: 4, others[1]: 12 - own - 4}
        pods.change(fleet(*(pod(int(each[-1]), sizes, load) for each, load in loads.items())))
        assert (host(pods, TALK) == home) is kept


def test_two_proxies_with_the_same_to_do_choose_the_same_pod_and_not_one_for_all() -> None:
    chosen: Counter[str | None] = Counter()
    for number in range(200):
        talk = b"talk %d" % number
        one, other = host(of(pod(1), pod(2), pod(3)), talk), host(of(pod(3), pod(2), pod(1)), talk)
        assert one == other
        chosen[one] += 1
    assert min(chosen.values()) > 40, chosen


def test_another_proxy_finds_the_pod_of_a_conversation_though_others_have_less_to_do() -> None:
    sizes = replace(VLLM, at_a_time=8)
    for number in range(50):
        talk = b"talk %d" % number
        home = host(of(pod(1, sizes, 2), pod(2, sizes, 2), pod(3, sizes, 2)), talk)
        loads = {each: 3 if f"10.0.0.{each}" == home else 2 for each in (1, 2, 3)}  # that request runs there
        assert host(of(*(pod(each, sizes, load) for each, load in loads.items())), talk) == home


@dataclass
class Turn:
    """A request of a conversation: the next one of it is turn `number`, counted from 0. `home` had the one
    before."""

    talk: bytes
    number: int = 0
    home: str = ""


TURNS = 4


@dataclass
class TwoProxies:
    """So many requests run at a time at three pods, through whichever of two proxies, and each of these is
    told every few requests what the other one has there. When one ends, one of as many conversations that
    rest goes on, or a new one begins."""

    running: int
    chance: random.Random
    proxies: tuple[Pods, Pods] = field(default_factory=lambda: (Pods(), Pods()))
    open_: list[tuple[Pods, str, Turn]] = field(default_factory=list)
    rest: list[Turn] = field(default_factory=list)
    talks: int = 0

    @property
    def unheard(self) -> int:
        """After so many requests each proxy hears of the other one."""
        return max(1, self.running // 10)

    def tell(self) -> None:
        sizes = replace(VLLM, at_a_time=self.running)
        for mine, other in (self.proxies, self.proxies[::-1]):
            mine.change(fleet(*(pod(n, sizes, other.running[f"10.0.0.{n}"]) for n in (1, 2, 3))))

    def turns(self, count: int) -> Iterator[tuple[Turn, str, Counter[str]]]:
        """What was asked, which pod it was sent to, and what each pod had then."""
        for number in range(count):
            if number % self.unheard == 0:
                self.tell()
            if len(self.open_) == self.running:
                proxy, at, ended = self.open_.pop(self.chance.randrange(self.running))
                proxy.left(at)
                if ended.number + 1 < TURNS:
                    self.rest.append(replace(ended, number=ended.number + 1, home=at))
            if len(self.rest) > self.running:
                turn = self.rest.pop(self.chance.randrange(len(self.rest)))
            else:
                self.talks += 1
                turn = Turn(b"talk %d" % self.talks)
            loads = Counter(at for _, at, _ in self.open_)
            proxy = self.chance.choice(self.proxies)
            chosen = host(proxy, turn.talk)
            assert chosen is not None
            self.open_.append((proxy, chosen, turn))
            yield turn, chosen, loads


@pytest.mark.parametrize(("running", "most"), [(6, 0.20), (20, 0.10), (60, 0.05)])
def test_with_two_proxies_few_turns_leave_a_pod_that_had_no_more_than_its_part(
    running: int, most: float
) -> None:
    """Where a proxy took the pod with the least to do for what it did not know, three of ten did. Those that
    still do had begun elsewhere than where they belong, since that pod had more than its part then: the fewer
    requests there are, the more often it has."""
    two = TwoProxies(running, random.Random(running))
    left = later = beyond = count = 0
    for turn, chosen, loads in two.turns(6000):
        bound = math.ceil(FULLER * (1 + loads.total()) / 3)
        count += 1
        beyond += loads[chosen] + 1 > bound
        assert loads[chosen] + 1 <= bound + two.unheard, "a proxy does not know more of the other one"
        if turn.number:
            later += 1
            left += chosen != turn.home and loads[turn.home] + 1 <= bound
    assert later > count / 2
    assert left / later < most, (left, later)
    assert beyond / count < 0.03, (beyond, count)


def test_many_new_conversations_at_once_are_spread_by_their_part_and_not_by_their_order_alone() -> None:
    """Also where all of them begin alike: then every proxy looks for a pod in the same order."""
    for talks in ([TALK] * 60, [b"%d" % n for n in range(60)]):
        two = TwoProxies(60, random.Random(1))
        two.tell()
        hosts = Counter(host(two.proxies[n % 2], talk) for n, talk in enumerate(talks))
        assert max(hosts.values()) <= 26 and min(hosts.values()) >= 10, hosts


def test_a_pod_whose_engine_has_ended_is_left_out_until_it_can_have_said_so() -> None:
    pods = of(pod(1), pod(2))
    home = host(pods, TALK, now=10)
    assert home
    pods.left(home)
    pods.gone(home, 10)
    other = host(pods, TALK, now=10)
    assert other and other != home
    pods.left(other)
    assert host(pods, now=10 + GONE_SECONDS) is not None
    pods.gone(other, 11)
    pods.gone(home, 11)
    assert host(pods, TALK, now=11) is None, "nobody is asked where no pod is there"


def test_the_name_decides_unless_a_flip_is_under_way_or_nothing_has_that_name() -> None:
    new, old = pod(1), pod(2, OLLAMA)
    pods = of(new, old)
    assert [host(pods) for _ in range(5)] == ["10.0.0.1"] * 4 + [None], "the others are full, and wait"
    pods = of(new, old, flip=True)
    assert Counter(host(pods) for _ in range(7)) == {"10.0.0.1": 4, "10.0.0.2": 2, None: 1}
    assert host(of(old)) == "10.0.0.2"
    pods = of(new, old)
    pods.gone("10.0.0.1", 0)
    assert host(pods) == "10.0.0.2"


def test_what_is_at_a_pod_that_is_chosen_no_more_is_counted_until_it_ends() -> None:
    pods = of(pod(1))
    pods.pick(TALK, 0)
    pods.change(fleet(pod(2)))
    assert host(pods, TALK) == "10.0.0.2"
    assert pods.running == {"10.0.0.1": 1, "10.0.0.2": 1}
    pods.left("10.0.0.1")
    assert pods.running == {"10.0.0.2": 1}


def test_only_so_many_conversations_are_remembered() -> None:
    pods = of(pod(1, replace(VLLM, at_a_time=1)))
    for number in range(REMEMBERED + 5):
        pods.pick(b"%d" % number, 0)
        pods.left("10.0.0.1")
    assert len(pods._homes) == REMEMBERED


@pytest.mark.parametrize("seed", range(200))
def test_whatever_comes_ends_and_dies_no_pod_has_more_than_its_places_and_room_is_used(seed: int) -> None:
    """Arrivals, ends, deaths and changes of the fleet in any order, with what a pick must be held against."""
    chance = random.Random(seed)
    pods, now, current = Pods(), 0.0, fleet()
    open_, homes, dead = list[str](), dict[bytes, str](), dict[str, float]()
    for _ in range(300):
        now += chance.random() * 0.2
        what = chance.random()
        if what < 0.05:
            numbers = chance.sample(range(1, 7), chance.randrange(7))
            made = [pod(n, chance.choice((VLLM, OLLAMA)), chance.choice((0, 0, 1))) for n in numbers]
            current = fleet(*made, flip=chance.random() < 0.5)
            pods.change(current)
        elif what < 0.1 and current.pods:
            lost = chance.choice(current.pods).host
            dead[lost] = now + GONE_SECONDS
            pods.gone(lost, now)
        elif what < 0.5 and open_:
            pods.left(open_.pop(chance.randrange(len(open_))))
        else:
            talk = chance.choice((b"", b"one", b"two", b"three"))
            loads = {each.host: open_.count(each.host) + each.elsewhere for each in current.pods}
            alive = [each for each in current.pods if dead.get(each.host, 0) <= now]
            named = [each for each in alive if each.engine.name == VLLM.name]
            allowed = alive if current.flip or not named else named
            free = {each.host: each for each in allowed if loads[each.host] < each.engine.at_a_time}
            chosen = host(pods, talk, now)
            assert (chosen in free) if free else chosen is None
            if chosen is None:
                continue
            home = homes.get(talk) if talk else None
            if home in free:
                there = free[home]
                total = 1 + sum(loads[each.host] for each in allowed)
                part = at_a_time(there) / sum(map(at_a_time, allowed))
                if loads[home] + 1 <= FULLER * total * part:
                    assert chosen == home, "it was allowed to stay"
            total, places = 1 + sum(loads[each.host] for each in allowed), sum(map(at_a_time, allowed))
            within = [
                each.host
                for each in free.values()
                if loads[each.host] + 1 <= math.ceil(FULLER * total * at_a_time(each) / places)
            ]
            if talk and within:
                assert chosen in within, "it has more than its part, and another one has not"
            elif chosen != home:
                least = min(loads[each] / at_a_time(free[each]) for each in free)
                assert loads[chosen] / at_a_time(free[chosen]) == least
            if talk:
                homes[talk] = chosen
            open_.append(chosen)
        assert pods.running == Counter(open_)
