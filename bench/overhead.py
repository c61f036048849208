"""What edge and gateway add to a request against the engine alone: the difference of medians.

Both ways are asked by turns from a container on the stack's own network, one request at a time, over
connections that stay open.
"""

import argparse
import json
import statistics
import subprocess

from bench.stack import deployed, machine, table
from components import pins
from components.edge import LISTEN_PORT
from components.engines import ALIAS, PORT
from tests.support.project import docker

CLIENT = """
import http.client, json, sys, time
plan = json.load(sys.stdin)
ways = {name: http.client.HTTPConnection(host, port) for name, (host, port) in plan["ways"].items()}
body = json.dumps({"model": plan["model"], "max_tokens": 1, "temperature": 0,
                   "messages": [{"role": "user", "content": "Hi."}]})
times = {name: [] for name in ways}
for turn in range(plan["n"] + 10):
    for name, way in ways.items():
        began = time.perf_counter()
        way.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = way.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        if turn >= 10:
            times[name].append((time.perf_counter() - began) * 1000)
json.dump(times, sys.stdout)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=300, help="requests each way (default: 300)")
    parser.add_argument("--engine", choices=("ollama", "vllm"), default="ollama")
    options = parser.parse_args()
    with deployed("bench-overhead", engine=options.engine) as project:
        (edge,) = project.containers("edge")
        plan = {
            "n": options.n,
            "model": "tiny",
            "ways": {"engine alone": [ALIAS, PORT], "edge and gateway": [edge, LISTEN_PORT]},
        }
        network = docker(
            "network", "ls", "--filter", f"label=changeover.stack={project.stack}", "--format", "{{.Name}}"
        )
        done = subprocess.run(
            [
                *("docker", "run", "--rm", "-i", "--network", network.strip()),
                *(pins.SWITCH.offline, "python3", "-c", CLIENT),
            ],
            input=json.dumps(plan),
            capture_output=True,
            text=True,
            check=True,
        )
    times = json.loads(done.stdout)
    rows = [
        [name, statistics.median(values), statistics.quantiles(values, n=100)[98]]
        for name, values in times.items()
    ]
    rows.append(["added", rows[1][1] - rows[0][1], rows[1][2] - rows[0][2]])
    print(f"One completion of one token from {options.engine}, N = {options.n} each way, {machine()}\n")
    print(table(["way", "median ms", "p99 ms"], rows))


if __name__ == "__main__":
    main()
