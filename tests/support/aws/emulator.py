"""The AWS API on 127.0.0.1: moto's server, and what it lacks as named fixtures.

- `publish_machine_image`: the Deep Learning AMI and its public parameter.
- `ADDRESSES`: which addresses are handed out. They are for tests of networks (RFC 2544).
- `LifecycleManager`: Amazon's Data Lifecycle Manager, as far as a policy is kept and given back.
- `SpotMarket`: spot requests that outlive their instances.
- `InUse`: what is not taken away while something uses it.
"""

import atexit
import functools
import itertools
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

AMI_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
AMI_NAME = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) {number}"
ADDRESSES = "198.18.0.{number}"

# read by moto when it is imported
os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"

from moto.backends import get_backend  # noqa: E402
from moto.core.models import DEFAULT_ACCOUNT_ID  # noqa: E402
from moto.ec2.models import elastic_ip_addresses  # noqa: E402
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402
from moto.ssm.models import Parameter  # noqa: E402
from werkzeug.serving import BaseWSGIServer, make_server  # noqa: E402

from common import ROOT  # noqa: E402
from tests.support.aws import in_use, warm  # noqa: E402
from tests.support.aws.spot_market import SpotMarket  # noqa: E402


class LifecycleManager(BaseHTTPRequestHandler):
    """Keeps lifecycle policies. The path and the bodies are those of the API, as boto3 sends them."""

    protocol_version = "HTTP/1.1"
    policies: dict[str, dict[str, Any]]
    numbers: "itertools.count[int]"

    def do_POST(self) -> None:
        asked = self._asked()
        made = f"policy-{next(self.numbers):017x}"
        arn = f"arn:aws:dlm:us-east-1:{DEFAULT_ACCOUNT_ID}:policy/{made}"
        self.policies[made] = {**asked, "PolicyId": made, "PolicyArn": arn}
        self._answer(200, {"PolicyId": made})

    def do_GET(self) -> None:
        self._one(lambda made: {"Policy": self.policies[made]})

    def do_PATCH(self) -> None:
        asked = self._asked()
        self._one(lambda made: self.policies[made].update(asked) or {})

    def do_DELETE(self) -> None:
        self._one(lambda made: self.policies.pop(made) and {})

    def _one(self, act: Any) -> None:
        found = re.fullmatch(r"/policies/([^/]+)/?", self.path)
        if found is None or found[1] not in self.policies:
            self._answer(404, {"Message": "no such policy"}, "ResourceNotFoundException")
        else:
            self._answer(200, act(found[1]))

    def _asked(self) -> dict[str, Any]:
        return dict(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"))

    def _answer(self, status: int, content: dict[str, Any], error: str = "") -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if error:
            self.send_header("x-amzn-ErrorType", error)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@functools.cache
def warm_programs() -> str:
    """The folder of sockets of processes of `warm`, which end with this one."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", warm.__name__, "serve", program, str(folder / program)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
        )
        for program in warm.PROGRAMS
    ]

    def end() -> None:
        for process in processes:
            assert process.stdin
            process.stdin.close()
            process.wait()
        shutil.rmtree(folder)

    atexit.register(end)
    while not all((folder / program).exists() for program in warm.PROGRAMS):
        assert all(process.poll() is None for process in processes), "one has ended"
        time.sleep(0.05)
    return str(folder)


class Emulator:
    """An AWS account of its own while it runs. Used as a context manager; one at a time in a process."""

    def __init__(self, region: str = "us-east-1") -> None:
        self.region = region
        self._images = itertools.count(1)
        self._addresses = itertools.count(10)

    def __enter__(self) -> "Emulator":
        self._spot = SpotMarket().__enter__()
        self._in_use = in_use.InUse().__enter__()
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._moto.start()
        host, port = self._moto.get_host_and_port()
        handler = type("Handler", (LifecycleManager,), {"policies": {}, "numbers": itertools.count(1)})
        self._lifecycle = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._lifecycle.serve_forever, args=(0.01,), daemon=True).start()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ENDPOINT_URL_DLM": f"http://127.0.0.1:{self._lifecycle.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": self.region,
            warm.PLACE: warm_programs(),
        }
        self._address = getattr(elastic_ip_addresses, "random_ip")  # noqa: B009
        setattr(elastic_ip_addresses, "random_ip", lambda: ADDRESSES.format(number=next(self._addresses)))  # noqa: B010
        self.publish_machine_image()
        return self

    def __exit__(self, *_: object) -> None:
        setattr(elastic_ip_addresses, "random_ip", self._address)  # noqa: B010
        self._lifecycle.shutdown()
        self._lifecycle.server_close()
        self._moto.stop()
        self._in_use.__exit__()
        self._spot.__exit__()
        for service in ("ec2", "iam", "ssm", "logs", "cloudwatch", "sns", "budgets", "route53"):
            get_backend(service).reset()

    @property
    def _ec2(self) -> Any:
        return get_backend("ec2")[DEFAULT_ACCOUNT_ID][self.region]

    def on_internet(self, instance: str) -> bool:
        """Whether an instance reaches the internet and is reached from there, as far as routes go."""
        return in_use.on_internet(self._ec2, instance)

    def publish_machine_image(self) -> str:
        """Register a newer Deep Learning AMI and have its public parameter name it. Returns its id."""
        account = self._ec2
        name = AMI_NAME.format(number=next(self._images))
        image = account.register_image(name=name, description=name)
        ssm = get_backend("ssm")[DEFAULT_ACCOUNT_ID][self.region]
        ssm._parameters[AMI_PARAMETER].append(
            Parameter(  # type: ignore[abstract]
                account_id=DEFAULT_ACCOUNT_ID,
                name=AMI_PARAMETER,
                value=image.id,
                parameter_type="String",
                description=name,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=datetime.now(UTC),
                version=len(ssm._parameters[AMI_PARAMETER]) + 1,
                data_type="text",
            )
        )
        return str(image.id)

    def serve_tls(self, address: str, certificate: Path, key: Path) -> BaseWSGIServer:
        """Serve the same account on port 443 of `address`, for a client that takes no endpoint of ours."""
        api = DomainDispatcherApplication(create_backend_app)
        tls = (str(certificate), str(key))
        server = make_server(address, 443, api, threaded=True, ssl_context=tls)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def client(self, service: str) -> Any:
        """A boto3 client, for tests that change something behind Pulumi's back."""
        import boto3  # type: ignore[import-untyped]

        return boto3.client(
            service,
            region_name=self.region,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
