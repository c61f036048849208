"""Two programs of the tests that take a second or two only to be imported, imported once: each run of one is
a fork of a process that has done so. What they do is theirs, and so is each process that does it.

`python -m tests.support.aws.warm serve PROGRAM SOCKET` is that process, and ends when its stdin does.
`warm.py PROGRAM WORD...` runs a program by it, with its own folder, environment, stdin, stdout and stderr,
and ends as that does; if it is killed, so is the program. The programs are `aws`, the real CLI, and `plugin`,
the test plugin. Each has a process of its own, since the CLI brings another version of a package that the
plugin uses.

Nothing but the standard library is imported by who only asks.
"""

import json
import os
import random
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PLACE = "CHANGEOVER_TEST_WARM"
"""Environment variable with the folder of the sockets, which have the names of the programs."""
SERVICES = ("ec2", "iam", "ssm", "logs", "cloudwatch", "sns", "budgets", "route53", "dlm", "sts")
"""Those whose models are read before they are needed."""
MOST = 200_000
"""Bytes of a request: words and environment."""

Main = Callable[[], object]


def ask(program: str, words: Sequence[str]) -> int:
    """Runs a program; its exit status. Raises OSError where nothing listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as there:
        there.connect(f"{os.environ[PLACE]}/{program}")
        told = {"words": [program, *words], "folder": str(Path.cwd())}
        socket.send_fds(there, [json.dumps({**told, "environment": dict(os.environ)}).encode()], [0, 1, 2])
        return int(there.recv(16) or b"1")


def aws() -> Main:
    """The CLI's own `main`, with its customizations and the models of `SERVICES` in memory."""
    from awscli import clidriver  # type: ignore[import-untyped]
    from botocore import loaders, session  # type: ignore[import-untyped]

    known: dict[str, Any] = {}
    read = loaders.JSONFileLoader.load_file

    def load_file(self: Any, path: str) -> Any:
        if path not in known:
            known[path] = read(self, path)
        return known[path]

    loaders.JSONFileLoader.load_file = load_file
    clidriver.create_clidriver()
    made = session.Session()
    for service in SERVICES:
        made.create_client(
            service, region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
        )
    return clidriver.main  # type: ignore[no-any-return]


def plugin() -> Main:
    """The test plugin's own `main`, with the schemas of all that it knows in memory."""
    from tests.support.aws import plugin, schema
    from tests.support.aws.resources import KINDS

    for token in KINDS:
        schema.resource(token)
    return plugin.main


PROGRAMS = {"aws": aws, "plugin": plugin}


def serve(program: str, place: str) -> None:
    """Forks for each request, until stdin ends. The program is imported for the first of them."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    lives = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    main: Main | None = None
    set_by_it = dict[str, str]()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as here:
        here.bind(place)
        here.listen(64)
        while True:
            both: list[Any] = [here, lives]
            there, _, _ = select.select(both, [], [])
            if lives in there:
                return
            asked, _ = here.accept()
            with asked:
                raw, files, _, _ = socket.recv_fds(asked, MOST, 3)
                if raw:
                    told = json.loads(raw)
                    if main is None:
                        before = dict(os.environ)
                        main = PROGRAMS[program]()
                        set_by_it = dict(os.environ.items() - before.items())
                    assert threading.active_count() == 1, "a fork has none of the other threads"
                    if os.fork() == 0:
                        here.close()
                        os.close(lives)
                        told["environment"] |= set_by_it
                        become(main, told, files, asked)
                for file in files:
                    os.close(file)


def become(main: Main, told: dict[str, Any], files: Sequence[int], asked: socket.socket) -> None:
    """Is the program from here on, and says with what it ended."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(told["folder"])
        os.environ.clear()
        os.environ.update(told["environment"])
        sys.argv = told["words"]
        random.seed()

        def end() -> None:
            asked.recv(1)
            os._exit(1)

        threading.Thread(target=end, daemon=True).start()
        try:
            said = main()
        except SystemExit as error:
            said = error.code
        code = said if isinstance(said, int) else int(said is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        asked.send(str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    verb, *told_words = sys.argv[1:]
    if verb in PROGRAMS:
        sys.exit(ask(verb, told_words))
    serve(*told_words)
