"""boto3 clients for the endpoint in `AWS_ENDPOINT_URL`, which must be on this machine."""

import os
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]


@cache
def client(service: str, region: str) -> Any:
    """A client that sends nothing to Amazon itself. Raises RuntimeError without a local endpoint.

    Every call's name is added to the file in `CHANGEOVER_TEST_AWS_CALLS`, one line each.
    """
    endpoint = os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}", os.environ.get("AWS_ENDPOINT_URL", ""))
    if urlsplit(endpoint).hostname != "127.0.0.1":
        raise RuntimeError(f"the test plugin talks to an emulator on 127.0.0.1 only, not to {endpoint!r}")
    session = boto3.session.Session()
    made = session.client(service, region_name=region, endpoint_url=endpoint)
    if log := os.environ.get("CHANGEOVER_TEST_AWS_CALLS"):

        def note(model: Any, **_: Any) -> None:
            with open(log, "a") as file:  # noqa: PTH123  # one write, so that lines of threads stay whole
                file.write(f"{model.service_model.signing_name}:{model.name}\n")

        made.meta.events.register("before-call", note)
    return made
