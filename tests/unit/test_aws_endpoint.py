"""The endpoint on an AWS host, under mocks: everything on the host lives and ends with its instance."""

from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_docker as docker
import pytest

from components.aws.gpu_host import INTERPRETER
from components.docker_host import DockerHost, Tls
from components.labels import Labels
from stacks.blueprint import blueprint
from stacks.endpoint import Endpoint, EndpointArgs
from stacks.settings import from_values
from tests.support.recorder import Recorder
from tests.unit.test_aws_settings import GOOD, ROOT

KEY = "0123456789abcdef-secret"


def build(tls: Tls, **values: object) -> Recorder:
    recorder = Recorder.start("prod")

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def program() -> None:
        settings = from_values("prod", {**GOOD, **values}, ROOT)
        host = DockerHost(
            address="ssh://ubuntu@i-0123456789abcdef0",
            socket="/var/run/docker.sock",
            bind="0.0.0.0",
            gpu=settings.gpu,
            provider=docker.Provider("host", host="ssh://ubuntu@i-0123456789abcdef0"),
            labels=Labels(project="changeover", stack="prod"),
            origin="from its vendor",
            machine=aws.ec2.Instance("instance", ami="ami-0", instance_type="g4dn.xlarge"),
            interpreter=INTERPRETER,
            step_environment={"CHANGEOVER_SSH_CONFIG": ".changeover/ssh/prod/config"},
            log_drivers={
                "edge": ("awslogs", {"awslogs-group": "/changeover/prod/edge", "mode": "non-blocking"})
            },
            tls=tls,
        )
        keys = pulumi.Output.secret({tenant: f"{KEY}-{tenant}" for tenant in settings.tenants})
        Endpoint("endpoint", EndpointArgs(blueprint=blueprint(settings), host=host, api_keys=keys))

    program()
    return recorder


BY_ADDRESS = Tls(name="198.51.100.7", internal=True)
BY_NAME = Tls(name="llm.example.com", internal=False)


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return build(BY_ADDRESS)


def on_host(recorder: Recorder) -> list[Any]:
    return [
        request
        for request in recorder.requests
        if request.type.startswith(("docker:", "command:")) and request.custom
    ]


def test_everything_on_the_host_ends_with_the_instance_and_is_made_again_with_it(recorder: Recorder) -> None:
    assert len(on_host(recorder)) > 15
    for request in on_host(recorder):
        assert request.deletedWith.endswith("::instance"), request.name
        assert [urn.rsplit("::", 1)[1] for urn in request.replace_with] == ["instance"], request.name


def test_every_step_goes_over_the_stacks_own_ssh(recorder: Recorder) -> None:
    commands = recorder.of("Command")
    assert len(commands) >= 6
    for inputs in commands.values():
        assert inputs["interpreter"] == list(INTERPRETER)
        assert inputs["environment"]["CHANGEOVER_SSH_CONFIG"] == ".changeover/ssh/prod/config"
        assert inputs["environment"]["DOCKER_HOST"].startswith("ssh://")
    looks = [call for call in recorder.calls if call.token == "command:local:run"]
    assert [call.args["interpreter"] for call in looks] == 2 * [list(INTERPRETER)]


def ports(recorder: Recorder) -> dict[str, list[int]]:
    return {
        name: [int(port["external"]) for port in inputs["ports"]]
        for name, inputs in recorder.of("Container").items()
        if inputs.get("ports")
    }


def test_only_the_edge_listens_and_on_80_only_for_public_certificates(recorder: Recorder) -> None:
    assert ports(recorder) == {"changeover-prod-edge": [443]}
    assert ports(build(BY_NAME, domain="llm.example.com", publicHttp=True)) == {
        "changeover-prod-edge": [443, 80]
    }


def test_the_access_log_goes_to_cloudwatch_and_waits_for_nobody(recorder: Recorder) -> None:
    containers = recorder.of("Container")
    edge = containers["changeover-prod-edge"]
    assert edge["logDriver"] == "awslogs"
    assert edge["logOpts"]["mode"] == "non-blocking"
    assert {each["logDriver"] for name, each in containers.items() if name != "changeover-prod-edge"} == {
        "json-file"
    }


def configuration(recorder: Recorder) -> str:
    return str(recorder.of("Command")["edge-configuration"]["stdin"])


def test_an_address_gets_a_certificate_of_the_edges_own_ca_and_a_name_a_public_one(
    recorder: Recorder,
) -> None:
    assert "tls internal" in configuration(recorder)
    assert "https://198.51.100.7:443" in configuration(recorder)
    assert "edge-ca" in recorder.of("Command")
    public = build(BY_NAME, domain="llm.example.com", publicHttp=True)
    assert "tls internal" not in configuration(public)
    assert "https://llm.example.com:443" in configuration(public)
    assert "edge-ca" not in public.of("Command")


def test_the_key_decides_the_tenant_and_is_only_in_the_edges_secret_configuration(recorder: Recorder) -> None:
    assert recorder.holders(KEY) == ["edge-configuration"]
    assert "{http.request.header.X-Tenant-ID}" not in configuration(recorder)


def test_a_flip_touches_neither_the_instance_nor_anything_else_than_on_docker() -> None:
    seen = []
    for engine in ("ollama", "vllm"):
        recorder = build(BY_ADDRESS, engine=engine)
        seen.append({f"{each.typ}::{each.name}": each.inputs for each in recorder.resources})
    before, after = seen
    assert before.keys() == after.keys()
    changed = {name.rsplit("::", 1)[1] for name in before if before[name] != after[name]}
    assert changed == {"prepare-step", "changeover-prod-gateway", "commit-step"}
