"""Many streams at once, through the whole way and from the engine alone: is each event there, and how late?

Run: `python -m bench.streams`. It starts a proxy, an edge, a gateway and an instant engine in Docker networks
of their own.

Events are numbered and have the time at which the engine sent them, by the same clock as the client's. A
stream with an event too few, too many or in the wrong place is lost. The table has how many milliseconds
events took, and the microseconds of CPU time that edge, proxy and gateway used for each.
"""

import argparse
import statistics

from bench.stack import table
from bench.ways import ALONE, NONE, PARTS, WITH, Client, cpu, place, say, started, where
from common import main_guard
from measure.levels import percentile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=64, help="streams at once (default: 64)")
    parser.add_argument("--per-second", type=int, default=50, help="events a second of each (default: 50)")
    parser.add_argument("--seconds", type=int, default=10, help="length of each stream (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds each way (default: 3)")
    options = parser.parse_args()
    heading, events = where(), options.seconds * options.per_second
    names = (ALONE, WITH, NONE)
    late = {name: list[float]() for name in names}
    used = {name: dict.fromkeys(PARTS, 0.0) for name in (WITH, NONE)}
    lost = dict.fromkeys(names, 0)
    with (
        started(WITH, NONE, at_a_time=options.n, events=events, per_second=options.per_second) as ways,
        Client(*(way.run for way in ways.values())) as client,
    ):
        for number in range(options.rounds):
            for name in names:
                before = cpu(ways[name]) if name in used else {}
                # not all in the same moment: each has one of its own in which its engine sends
                apart = 1 / options.per_second / options.n
                done = client.do("streams", place=place(ways, name), n=options.n, events=events, apart=apart)
                late[name] += [seconds * 1000 for seconds in done["late"]]
                lost[name] += done["lost"]
                for part, seconds in (cpu(ways[name]) if name in used else {}).items():
                    used[name][part] += seconds - before[part]
                say(
                    f"{number + 1} of {options.rounds}, {name}: {len(done['late'])} events,"
                    f" {done['lost']} of {options.n} streams lost"
                )
    print(
        f"{options.n} streams at once of {options.per_second} events a second for {options.seconds} s, "
        f"{options.rounds} times, {heading}\n"
    )
    alone = (statistics.median(late[ALONE]), percentile(late[ALONE], 99))
    rows: list[list[object]] = []
    for name in names:
        row = [name, options.rounds * options.n, lost[name], len(late[name])]
        if late[name]:
            seen = statistics.median(late[name]), percentile(late[name], 99)
            row += [*seen, max(late[name])]
            if name in used:
                row += [seen[0] - alone[0], seen[1] - alone[1]]
                row += [f"{seconds / len(late[name]) * 1e6:.0f}" for seconds in used[name].values()]
        rows.append([*row, *[""] * (12 - len(row))])
    header = ("way", "streams", "lost", "events", "median ms", "p99 ms", "most ms", "added", "added at p99")
    print(table((*header, *(f"{part}: CPU µs an event" for part in PARTS)), rows))
    raise SystemExit(1 if sum(lost.values()) else 0)


if __name__ == "__main__":
    main_guard(main)
