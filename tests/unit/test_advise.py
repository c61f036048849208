"""What is advised for made traffic of each kind, in words and in the numbers that its maker knows."""

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from advise.rule import advise, by_clock, days
from proxy.traffic import FIELDS, short
from tests.support.traffic import DAY, MONDAY, Arrival, chance, level, office, served
from traffic.load import (
    HOUR,
    Hour,
    LoggedRequest,
    SteadySpan,
    Traffic,
    held,
    left_out,
    most,
    of_log,
    of_samples,
    percentile,
)

EPSILON = 1e-6


def traffic(
    requests: Sequence[LoggedRequest], *, since: float = MONDAY, until: float = MONDAY + 7 * DAY
) -> Traffic:
    return of_log(requests, since, until, "the access log")


def week(users: int) -> list[Arrival]:
    return [each for day in range(5) for each in office(MONDAY + day * DAY, users)]


def test_office_hours_of_a_few_users_say_stay_with_their_numbers() -> None:
    seen = traffic(served(week(6)))
    said = advise(seen, "ollama", "local")
    assert (said.verdict, said.engine, said.figure) == ("stay", "ollama", 6)
    assert said.words[0] == (
        "Stay with Ollama: on most days there are fewer than 10 concurrent requests, and Ollama is enough "
        "for that."
    )
    assert "6 on 2025-11-24, 6 on 2025-11-25" in said.words[1]
    assert "Above 15 on 0 of 5 days, below 10 on 5" in said.words[1]
    assert said.short == (
        "the last 7 days, 5 of them with requests: 6 concurrent requests in a day's busiest hour (p95); "
        "advice: stay with Ollama"
    )
    assert [day.counts for day in days(seen)] == [True] * 5 + [False] * 2
    clock = by_clock(seen)
    assert [percentile(clock[hour].levels, 0.5) for hour in (7, 8, 9, 16, 17, 18)] == [0, 3, 6, 6, 3, 0]
    assert clock[9].requests == 5 * 6 and not clock[9].left_out


def test_many_users_each_day_say_upgrade_also_where_they_wait_in_line() -> None:
    """An engine that works on 8 concurrent requests never has 20 of them, and still 20 users are there."""
    crowd = [
        Arrival(MONDAY + day * DAY + 9 * HOUR + second, 20)
        for day in range(5)
        for second in range(600)
        for _ in range(1 if second else 20)
    ]
    for at_a_time in (1000, 8):
        seen = traffic(served(crowd, at_a_time=at_a_time))
        said = advise(seen, "ollama", "local")
        assert said.verdict == "upgrade" and said.engine == "vllm"
        assert said.words[0] == "Upgrade to vLLM: there are regularly more than 15 concurrent requests."
        assert "Above 15 on 5 of 5 days" in said.words[1]
        assert said.short.endswith("advice: upgrade to vLLM")
        assert bool(by_clock(seen)[9].crowded) == (at_a_time == 8)
    assert advise(seen, "vllm", "local").words[0].startswith("Stay with vLLM: there are regularly more")


def test_one_spike_is_named_and_decides_nothing() -> None:
    spike = level(MONDAY + 2 * DAY + 10 * HOUR, 1800, 34)
    said = advise(traffic(served(week(6) + spike)), "ollama", "local")
    assert said.verdict == "stay" and said.figure == 6
    assert said.words[2] == (
        "An occasional spike: at most 40 concurrent requests on 2025-11-26, p95 40 from 10:00."
    )


def test_in_between_it_is_undecided_and_says_what_would_decide_it() -> None:
    said = advise(traffic(served(week(12))), "ollama", "local")
    assert said.verdict == "undecided" and said.engine is None and said.figure == 12
    assert said.words[0].startswith("Undecided: there are between 10 and 15 concurrent requests")
    assert "3 more of these days above 15 for vLLM, or 4 more below 10 for Ollama" in said.words[2]
    assert "make report STACK=local" in said.words[2]
    assert said.short.endswith("advice: undecided")


@pytest.mark.parametrize(
    ("users", "verdict"),
    [
        ((16, 16, 4, 4), "upgrade"),
        ((16, 15, 4, 4), "undecided"),
        ((9, 9, 9, 16), "stay"),
        ((9, 9, 10, 10), "undecided"),
        ((15, 15, 15, 15), "undecided"),
        ((16, 16, 16), "upgrade"),
        ((16, 16), "too little"),
    ],
)
def test_regularly_is_half_of_the_days_above_and_three_of_four_below(
    users: Sequence[int], verdict: str
) -> None:
    arrivals = [each for day, many in enumerate(users) for each in office(MONDAY + day * DAY, many)]
    assert advise(traffic(served(arrivals)), "ollama", "local").verdict == verdict


def test_vllm_with_few_users_is_told_that_ollama_would_do() -> None:
    seen = traffic(served(week(3), kinds=((0.0, "vllm"),)))
    said = advise(seen, "vllm", "local")
    assert said.words[0].startswith("Ollama would do: on most days there are fewer than 10")
    assert said.short.endswith("advice: Ollama would do")


def test_two_tenants_have_their_own_requests_work_and_peak() -> None:
    at = MONDAY + 9 * HOUR
    both = [*level(at, 600, 4, "acme"), *level(at + 300, 600, 2, "bob"), Arrival(at, 60, "bob", failed=True)]
    seen = traffic(served(both))
    acme, bob = (seen.tenants[name] for name in ("acme", "bob"))
    assert (acme.requests, acme.failed, acme.most) == (4, 0, 4)
    assert (bob.requests, bob.failed, bob.most) == (3, 1, 2)
    assert acme.work == pytest.approx(2400) and bob.work == pytest.approx(1260)
    assert most(seen.hours[at].levels) == 6 and seen.hours[at].failed == 1


def test_what_was_cut_has_failed_and_who_hung_up_is_counted_apart() -> None:
    at = MONDAY + 9 * HOUR
    made = LoggedRequest(at + 5, 5, 0, "ollama-1", tenant="acme")
    seen = traffic([made, replace(made, cut=True), replace(made, failed=True), replace(made, hung_up=True)])
    hour, acme = seen.hours[at], seen.tenants["acme"]
    assert (hour.requests, hour.failed, hour.hung_up) == (4, 2, 1)
    assert (acme.requests, acme.failed) == (4, 2)


def steady(begins: float, seconds: float, every: float, length: float) -> list[Arrival]:
    return [Arrival(begins + n * every, length) for n in range(int(seconds / every))]


def test_a_hold_of_minutes_is_no_load_and_neither_is_what_has_piled_up_in_it() -> None:
    """Three concurrent requests, and then 300 that have waited for five minutes."""
    at, hold = MONDAY + 9 * HOUR, (MONDAY + 9 * HOUR + 600, MONDAY + 9 * HOUR + 900)
    arrivals = steady(at, 3600, 1, 3)
    seen = traffic(served(arrivals, at_a_time=50, holds=[hold]))
    ((begins, ends),) = seen.holds
    assert hold[0] <= begins <= hold[0] + 3 and ends == pytest.approx(hold[1])
    hour = seen.hours[at]
    assert most(hour.levels) == 3, "neither who waits in a hold nor who waited in it counts"
    assert hour.left_out == pytest.approx(2 * (ends - begins))
    assert hour.requests == 3600 and hour.crowded == 0


def test_a_flip_in_the_middle_is_found_and_each_engine_has_its_own_numbers() -> None:
    flip = MONDAY + 2 * DAY + 12 * HOUR
    seen = traffic(
        served(
            [each for day in range(5) for each in steady(MONDAY + day * DAY + 9 * HOUR, 6 * HOUR, 2, 7)],
            holds=[(flip, flip + 40)],
            kinds=((0.0, "ollama"), (flip, "vllm")),
        )
    )
    assert [kind for _, _, kind in seen.served] == ["ollama", "vllm"]
    assert seen.served[1][0] == pytest.approx(flip + 40, abs=2)
    (hold,) = seen.holds
    assert flip <= hold[0] and hold[1] == pytest.approx(flip + 40)
    assert {kind: most(hour.levels) for kind, hour in seen.by_kind.items()} == {"ollama": 4, "vllm": 4}
    assert sum(hour.left_out for hour in seen.hours.values()) == pytest.approx(hold[1] - hold[0] + 60)
    assert advise(seen, "vllm", "local").figure == 4


def test_one_day_is_too_little_and_is_said() -> None:
    for until in (MONDAY + DAY, MONDAY + 18 * HOUR):
        said = advise(traffic(served(office(MONDAY, 40)), until=until), "ollama", "local")
        assert said.verdict == "too little" and said.engine is None
        whole = "1 whole day with requests" if until == MONDAY + DAY else "0 whole days with requests"
        assert said.words[0].startswith(f"Too little is known: {whole}, and 360 requests")
        assert said.words[1] == "So far there were at most 40 concurrent requests, on 2025-11-24."
        assert "at least 3 days" in said.words[2]
        assert said.short == f"{whole}; advice: none yet, 3 are needed"


def test_of_no_request_nothing_is_guessed() -> None:
    said = advise(traffic([]), "ollama", "local")
    assert said.verdict == "too little" and said.words[0] == "Too little is known: there was no traffic."


def test_a_day_that_is_not_known_from_its_beginning_or_is_not_over_decides_nothing() -> None:
    arrivals = [each for day in range(4) for each in office(MONDAY + day * DAY, 20)]
    seen = traffic(served(arrivals), since=MONDAY + 60, until=MONDAY + 3 * DAY + 20 * HOUR)
    assert [day.counts for day in days(seen)] == [False, True, True, False]
    assert advise(seen, "ollama", "local").verdict == "too little"


def test_a_request_that_no_engine_got_is_no_load() -> None:
    at = MONDAY + 9 * HOUR
    seen = traffic([LoggedRequest(at + 0.001, 0.001, 0, failed=True), LoggedRequest(at + 5, 5, 5, "-")])
    assert most(seen.hours[at].levels) == 0, "it was refused, or has waited in a hold until it was given up"
    assert seen.hours[at].requests == 2 and seen.hours[at].failed == 1
    assert seen.served == []


def test_of_an_hour_that_was_nearly_all_held_a_moment_decides_nothing() -> None:
    """Each day half an hour of a hold, and as long after it; in the 40 s that are left, 16 ask for 3 s."""
    arrivals, holds = list[Arrival](), list[tuple[float, float]]()
    for day in range(5):
        at = MONDAY + day * DAY + 10 * HOUR
        holds.append((at, at + 1780))
        arrivals += [Arrival(at + 1, 1), *level(at + 3565, 3, 16), *level(at - HOUR, 1800, 2)]
    seen = traffic(served(arrivals, holds=holds))
    assert all(seen.hours[MONDAY + 10 * HOUR].levels[n] < 40 for n in (0, 16))
    assert percentile(seen.hours[MONDAY + 10 * HOUR].levels, 0.95) == 16
    said = advise(seen, "ollama", "local")
    assert (said.verdict, said.figure) == ("stay", 2)
    assert all(day.most == 16 and day.busiest == 9 for day in days(seen)[:5]), "as a peak it is told"


def test_days_on_which_everything_was_refused_advise_nothing() -> None:
    """As of a scanner that has no key."""
    refused = [LoggedRequest(MONDAY + n * HOUR, 0.001, 0) for n in range(5 * 24)]
    said = advise(traffic(refused), "ollama", "local")
    assert said.verdict == "too little"
    assert said.words[0] == "Too little is known: there were 120 requests, and no engine got any."
    one = served(office(MONDAY, 40))
    said = advise(traffic([*refused, *one]), "ollama", "local")
    assert said.verdict == "too little" and "1 whole day with requests" in said.words[0]


def count(requests: Sequence[LoggedRequest], holds: Sequence[tuple[float, float]], begins: float) -> Hour:
    """The hour that begins then, by counting at every moment between two changes."""
    out = left_out(holds)
    moments = {begins, begins + HOUR}
    for each in requests:
        moments |= {each.began, each.admitted, each.ended}
    moments |= {edge for window in out for edge in window}
    line = sorted(each for each in moments if begins <= each <= begins + HOUR)
    hour = Hour()
    for one, other in itertools.pairwise(line):
        middle = (one + other) / 2
        if any(window[0] <= middle < window[1] for window in out):
            hour.left_out += other - one
            continue
        there = [each for each in requests if each.began <= middle < each.ended and each.at_engine]
        hour.levels[len(there)] += other - one
        hour.crowded += other - one if any(middle < each.admitted for each in there) else 0
    return hour


@pytest.mark.parametrize("seed", range(12))
def test_any_traffic_has_the_numbers_that_counting_gives(seed: int) -> None:
    rng = random.Random(seed)
    holds = sorted(
        (begins, begins + rng.uniform(2, 200))
        for begins in (MONDAY + rng.random() * 3 * HOUR for _ in range(seed % 4))
    )
    arrivals = chance(seed, rng.randrange(20, 250), MONDAY, 3 * HOUR, rng.choice([5, 60, 900]))
    requests = served(arrivals, at_a_time=rng.choice([1, 4, 30]), holds=holds)
    seen = traffic(requests, until=MONDAY + 4 * HOUR)
    for begins in (MONDAY + n * HOUR for n in range(4)):
        known, hour = count(requests, seen.holds, begins), seen.hours[begins]
        assert {n: s for n, s in hour.levels.items() if s > EPSILON} == pytest.approx(
            {n: s for n, s in known.levels.items() if s > EPSILON}
        )
        assert hour.crowded == pytest.approx(known.crowded, abs=EPSILON)
        assert hour.left_out == pytest.approx(known.left_out, abs=EPSILON)
        assert hour.requests == sum(begins <= each.began < begins + HOUR for each in requests)
        for share in (0.5, 0.95, 0.99):
            assert percentile(hour.levels, share) == percentile(known.levels, share)
        assert most(hour.levels) == max(known.levels, default=0)


@pytest.mark.parametrize("seed", range(12))
def test_every_hold_in_which_somebody_waited_is_found_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    hold = (MONDAY + rng.uniform(600, 1800), MONDAY + rng.uniform(2000, 3000))
    requests = served(
        chance(seed, 400, MONDAY, HOUR, 4), at_a_time=rng.choice([2, 8, 100]), holds=[hold][: seed % 3]
    )
    found = held(requests)
    if not seed % 3:
        assert found == []
        return
    ((begins, ends),) = found
    first = min(each.began for each in requests if each.began >= hold[0])
    assert hold[0] - 4 <= begins <= first + EPSILON, "a queue of before may be taken for its beginning"
    assert ends == pytest.approx(hold[1])


def sampled(requests: Sequence[LoggedRequest], holds: Sequence[tuple[float, float]], until: float) -> Traffic:
    """The same traffic as a store knows it that asks every 5 s."""
    seconds = 5
    line = []
    for number in range(int((until - MONDAY) / seconds)):
        at = MONDAY + number * seconds
        there = [each for each in requests if each.began <= at < each.ended]
        waiting = sum(at < each.admitted for each in there)
        line.append(SteadySpan(at, at + seconds, len(there) - waiting, waiting))
    return Traffic("the store", MONDAY, until, of_samples(line, holds, (MONDAY, until)))


@pytest.mark.parametrize("seed", range(4))
def test_samples_of_a_store_and_the_log_agree(seed: int) -> None:
    hold = (MONDAY + 2400.0, MONDAY + 2600.0)  # longer than any answer: what is at the engine ends first
    requests = served(chance(seed, 1500, MONDAY, 2 * HOUR, 90), at_a_time=12, holds=[hold])
    log = traffic(requests, until=MONDAY + 2 * HOUR)
    store = sampled(requests, [hold], MONDAY + 2 * HOUR)
    for begins in (MONDAY, MONDAY + HOUR):
        ours, theirs = log.hours[begins], store.hours[begins]
        for share in (0.5, 0.95):
            assert abs(percentile(ours.levels, share) - percentile(theirs.levels, share)) <= 1
        assert ours.crowded == pytest.approx(theirs.crowded, abs=120)
        assert ours.left_out == pytest.approx(theirs.left_out, abs=30)


def test_the_proxy_writes_short_lines_of_what_was_asked_for_and_when_its_log_begins() -> None:
    log = [
        json.dumps(
            {
                **dict.fromkeys(FIELDS[1:]),
                "time": f"2025-11-24T0{hour}:00:00.250+00:00",
                "engine": "ollama-1",
                "total_ms": 12.5,
            }
        )
        for hour in range(3)
    ]
    *said, end = short([*log, '{"time": "2025-'], MONDAY + HOUR, 0)
    found = [each for each in said if isinstance(each, list)]
    assert len(found) == len(said) and [each[0] for each in found] == [
        MONDAY + HOUR + 0.25,
        MONDAY + 2 * HOUR + 0.25,
    ]
    assert dict(zip(FIELDS, found[0], strict=True))["total_ms"] == 12.5
    assert end == {"since": MONDAY + 0.25, "unreadable": 1}
