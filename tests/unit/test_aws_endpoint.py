"""The endpoint on an AWS host, under mocks: everything on the host lives and ends with its instance."""

import json
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_docker as docker
import pytest

from common import ROOT
from components.aws.gpu_host import INTERPRETER, LOGGED
from components.docker_host import DockerHost, Tls
from components.labels import Labels
from stacks.blueprint import blueprint_of
from stacks.endpoint import Endpoint, EndpointArgs
from stacks.settings import from_values
from tests.support.recorder import Recorder
from tests.unit.test_aws_settings import GOOD

KEY = "0123456789abcdef-secret"


def build(tls: Tls, *, keys: dict[str, str] | None = None, **values: object) -> Recorder:
    """`keys` instead of one for each tenant of the settings."""
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
                role: ("awslogs", {"awslogs-group": f"/changeover/prod/{role}", "mode": "non-blocking"})
                for role in LOGGED
            },
            tls=tls,
        )
        given = {tenant: f"{KEY}-{tenant}" for tenant in settings.tenants} if keys is None else keys
        secret = pulumi.Output.secret(given)
        Endpoint("endpoint", EndpointArgs(blueprint=blueprint_of(settings), host=host, api_keys=secret))

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
        if request.type.startswith(("docker:", "command:"))
        and request.custom
        and request.name != "identity"  # is in the state alone
    ]


def test_everything_on_the_host_ends_with_the_instance_and_is_made_again_with_it(recorder: Recorder) -> None:
    assert len(on_host(recorder)) > 15
    for request in on_host(recorder):
        assert request.deletedWith.endswith("::instance"), request.name
        assert [urn.rsplit("::", 1)[1] for urn in request.replace_with] == ["instance"], request.name


def test_every_step_goes_over_the_stacks_own_ssh(recorder: Recorder) -> None:
    commands = recorder.of("Command")
    assert len(commands) >= 6
    del commands["identity"]  # reaches no host
    for inputs in commands.values():
        assert inputs["interpreter"] == list(INTERPRETER)
        assert inputs["environment"]["CHANGEOVER_SSH_CONFIG"] == ".changeover/ssh/prod/config"
        assert inputs["environment"]["DOCKER_HOST"].startswith("ssh://")
    looks = [call for call in recorder.calls if call.token == "command:local:run"]
    assert [call.args["interpreter"] for call in looks] == 3 * [list(INTERPRETER)]


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


def test_on_a_machine_of_its_own_nobody_is_beside_it(recorder: Recorder) -> None:
    assert set(recorder.of("Network")) == {"network"} and "edge-clients" not in recorder.of("Command")


def test_the_access_log_goes_to_cloudwatch_and_waits_for_nobody(recorder: Recorder) -> None:
    containers = recorder.of("Container")
    kept = {f"changeover-prod-{role}": containers[f"changeover-prod-{role}"] for role in LOGGED}
    assert "changeover-prod-proxy" in kept
    assert {each["logDriver"] for each in kept.values()} == {"awslogs"}
    assert {each["logOpts"]["mode"] for each in kept.values()} == {"non-blocking"}
    assert {each["logDriver"] for name, each in containers.items() if name not in kept} == {"json-file"}


def configuration(recorder: Recorder) -> str:
    return str(recorder.of("Command")["edge-configuration"]["environment"]["CADDYFILE"])


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


def test_the_endpoint_is_not_open_and_no_key_is_in_any_input(recorder: Recorder) -> None:
    assert recorder.holders(KEY) == []
    assert json.loads(recorder.of("Command")["keys-step"]["stdin"]["value"])["open"] is False


def test_nobody_may_pass_where_no_key_is_known() -> None:
    without = build(BY_ADDRESS, keys={})
    told = json.loads(without.of("Command")["keys-step"]["stdin"]["value"])
    assert told == {"open": False, "keys": {}}


def test_a_flip_touches_neither_the_instance_nor_anything_else_than_on_docker() -> None:
    seen = []
    for engine in ("ollama", "vllm"):
        recorder = build(BY_ADDRESS, engine=engine)
        seen.append({f"{each.typ}::{each.name}": each.inputs for each in recorder.resources})
    before, after = seen
    assert before.keys() == after.keys()
    changed = {name.rsplit("::", 1)[1] for name in before if before[name] != after[name]}
    assert changed == {"prepare-step", "changeover-prod-gateway", "commit-step"}
