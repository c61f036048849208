"""`python3 -m switch VERB`, run by `docker exec` in the switch's container.

Exit status: 0 done, 1 failed or refused, 2 used wrongly, 69 the switch or Docker gives no answer, 75 still
under way: what is followed, or what has to end before the change that is asked for.
"""

import argparse
import json
import sys
from typing import Any

from switch.asking import SOCKET, UNAVAILABLE, ask
from switch.shared import LIVE_FILE

CHANGE = ("prepare", "commit", "follow", "abandon", "held", "release")
"""The verbs with which a change is made; the others are in `switch.verbs`."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m switch", description=__doc__)
    commands = parser.add_subparsers(dest="verb", required=True)
    for verb, text in {
        "serve": "be the switch (process 1 of its container)",
        "prepare": "make the engine of the plan on stdin ready; `follow` shows how it goes",
        "check": "check whether the plan on stdin could be carried out; this changes nothing",
        "look": "say whether the gateway's config and the keys are as they were declared, in a line each",
        "exchange": "send the HTTP requests on stdin, a line of JSON each, to containers; print the answers",
        "observe": "print all that can be watched, as a line of JSON for each line on stdin",
        "held": "say whether requests are held",
        "release": "stop looking after engines, before the stack is taken down; this ends no container",
        "fetch": "fetch the weights that the JSON on stdin describes",
    }.items():
        commands.add_parser(verb, help=text)
    change = "the id that the coordinator has given to its change"
    commands.choices["prepare"].add_argument("--change", default="", help=change)
    committer = commands.add_parser("commit", help="make the gateway and engine of the plan on stdin active")
    committer.add_argument("--change", default="", help=change)
    committer.add_argument(
        "--seen", default="", help=f"the content of `{LIVE_FILE}`, which the coordinator keeps"
    )
    keeper = commands.add_parser("keys", help="give the proxies the keys of the JSON on stdin, as digests")
    keeper.add_argument("--seen", default="", help="what `look` said of the keys, and is to say again")
    follower = commands.add_parser(
        "follow", help="wait a few seconds for the change that is under way, and print what is new"
    )
    follower.add_argument("--engine", default="", help="the container that the change leads to")
    follower.add_argument("--change", default="", help=change)
    abandoner = commands.add_parser("abandon", help="give up a prepared change, and go back to what served")
    abandoner.add_argument("--engine", required=True, help="the container that was to be prepared")
    abandoner.add_argument("--change", default="", help=change)
    commands.add_parser("status", help="print the state of the stack on one screen").add_argument(
        "--json", action="store_true", help="print it as JSON"
    )
    proof = commands.add_parser("certificate", help="print the last change, and its certificate in one line")
    proof.add_argument("--tar", action="store_true", help="print the two files of the certificate as a tar")
    proof.add_argument(
        "--change", default="", help="fail unless the last change was this one, or this one changed nothing"
    )
    freer = commands.add_parser("gc", help="name weights and images that neither serve nor lead back")
    freer.add_argument("--free", action="store_true", help="free them")
    owned = commands.add_parser("own", help="record which Pulumi state this stack belongs to")
    owned.add_argument("--owner", required=True, help="the random id of the state")
    owned.add_argument("--changes", type=int, required=True, help="how many changes the state has counted")
    owned.add_argument("--containers", nargs="*", default=[], help="its ids of switch, proxy and edge")
    owned.add_argument("--instead", required=True, help="the id of the owner that it may replace, or `any`")
    owned.add_argument("--folder", required=True, help="the folder that the stack is changed from")
    owned.add_argument("--machine", required=True, help="the machine that the stack is changed from")
    taker = commands.add_parser("receive", help="unpack a tar from stdin into the weights' folder `source`")
    taker.add_argument("--engine", required=True, help="whose weights they are")
    taker.add_argument("--folder", required=True, help="the folder of the weights in the engine's volume")
    args = parser.parse_args(argv)
    try:
        if args.verb in CHANGE:
            return _change(args)
        # the rest of the package, which a change has no need of, takes longer to import than its answers take
        from switch import verbs

        verbs.run(args)
    except TimeoutError as error:
        print(f"{args.verb}: {error}", flush=True)  # the text says who gives no answer
        return UNAVAILABLE
    except (ValueError, OSError) as error:
        print(f"{args.verb}: {error}", flush=True)
        return 1
    return 0


def _change(args: argparse.Namespace) -> int:
    """Asks the switch for one of `CHANGE`, and returns its exit status."""
    request: dict[str, Any] = {"verb": args.verb, "change": getattr(args, "change", "")}
    if args.verb in ("follow", "abandon"):
        request["engine"] = args.engine
    elif args.verb not in ("held", "release"):
        request |= {"plan": json.load(sys.stdin), "seen": getattr(args, "seen", "")}
    reply = ask(SOCKET, request)
    for line in reply["lines"]:
        print(line, flush=True)
    return int(reply["code"])


if __name__ == "__main__":
    sys.exit(main())
