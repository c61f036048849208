"""The stack `dev` on stand-ins for AWS and its instance: deploy, flip, wake, replace, recover, destroy.

The API is moto's, the plugin and the host are test doubles (`tests/support/aws`). Real are the Pulumi engine,
the docker plugin over SSH, the boot script, the data volume's file system, the gateway and the edge. Each
test goes on where the one before it stopped.
"""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from components.aws import permissions
from components.ssh_config import known_hosts
from review.drift import drift
from review.events import parse
from tests.support.aws.allowed import uncovered
from tests.support.aws.checkout import Checkout
from tests.support.aws.emulator import Emulator
from tests.support.aws.host.machines import ROOT_ONLY, Machines, SimulatedMachine
from tests.support.aws.project import AwsProject, deployable
from tests.support.load import LoadGenerator
from tests.support.project import CommandFailed
from tests.support.switch_stack import wait
from tools import keys
from tools.review import events_of

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason=ROOT_ONLY),
]

KEY = "marker-key-4be1-0123456789abcdef"
OTHERS_KEY = "marker-key-83d2-0123456789abcdef"
KEYS = {"tester": KEY, "other": OTHERS_KEY}
PROMPT = "marker-prompt-61c7"
WEIGHTS = "find /data/docker/volumes -path '*weights*' -type f -newermt 2000-01-01 -printf '%p %T@\\n' | sort"
"""Says on the host which files of weights there are, and since when."""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def machines(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with Machines(emulator, tmp_path_factory.mktemp("machines")) as machines:
        yield machines


@pytest.fixture(scope="module")
def project(emulator: Emulator, machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> AwsProject:
    return deployable("dev", emulator, machines, tmp_path_factory.mktemp("aws-dev"), KEYS)


@pytest.fixture
def host(machines: Machines) -> SimulatedMachine:
    return machines.only()


@contextmanager
def trusted(project: AwsProject) -> Iterator[None]:
    """Clients trust the stack's own CA, and nothing else."""
    file = project.folder / "ca.pem"
    file.write_text(project.outputs()["ca"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


def load_on(project: AwsProject) -> LoadGenerator:
    outputs = project.outputs()
    return LoadGenerator(endpoint=outputs["endpoint"], model=outputs["model"], api_key=KEY, pause=0.5)


@contextmanager
def client_of(project: AwsProject, key: str = KEY) -> Iterator[openai.OpenAI]:
    with (
        trusted(project),
        openai.OpenAI(
            base_url=project.outputs()["endpoint"], api_key=key, max_retries=0, timeout=120
        ) as client,
    ):
        yield client


def complete(project: AwsProject, key: str = KEY) -> str:
    with client_of(project, key) as client:
        answer = client.chat.completions.create(
            model=project.outputs()["model"], messages=[{"role": "user", "content": PROMPT}], max_tokens=8
        )
    return answer.choices[0].message.content or ""


def answers(project: AwsProject) -> bool:
    with suppress(openai.OpenAIError):
        return bool(complete(project))
    return False


def logged(emulator: Emulator, role: str) -> list[dict[str, Any]]:
    """The lines of JSON that are in the log of `dev`'s containers in CloudWatch."""
    pages = emulator.client("logs").get_paginator("filter_log_events")
    found = [
        each["message"]
        for page in pages.paginate(logGroupName=f"/changeover/dev/{role}")
        for each in page["events"]
    ]
    return [json.loads(line) for line in found if line.startswith("{")]


def answering(host: SimulatedMachine, machines: Machines) -> list[str]:
    """The ports at which the host answers a client on the internet, of all that anything listens at there."""
    listening = {int(line.split()[3].rsplit(":", 1)[1]) for line in host.inside("ss", "-Hltn").splitlines()}
    assert {22, 443} <= listening
    scan = f"""
import socket, errno
for port in {sorted({*listening, 22, 80, 443, 2019, 3000, 8000, 8080, 2375, 2376})}:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(("{host.address}", port))
            print(port)
        except OSError:
            pass
"""
    return machines.client("python3", "-c", scan).split()


def up_says_the_probe(host: SimulatedMachine, emulator: Emulator) -> float:
    """What CloudWatch has of the host, for the endpoint's alarm, once cron has run its probe."""
    api = emulator.client("cloudwatch")
    (alarm,) = api.describe_alarms(AlarmNamePrefix="changeover-dev-alarms-endpoint")["MetricAlarms"]
    host.inside("/usr/local/bin/changeover-probe")
    now = datetime.now(UTC)
    (point, *_) = api.get_metric_data(
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        MetricDataQueries=[
            {
                "Id": "up",
                "MetricStat": {
                    "Metric": {key: alarm[key] for key in ("Namespace", "MetricName", "Dimensions")},
                    "Period": 1,
                    "Stat": alarm["Statistic"],
                },
            }
        ],
    )["MetricDataResults"][0]["Values"]
    return float(point)


def nothing_to_do(project: AwsProject) -> None:
    """Neither settings and state differ, nor state and what there is."""
    project.pulumi("preview", "--refresh", "--expect-no-changes")


def nothing_is_left(emulator: Emulator) -> None:
    api = emulator.client("ec2")
    states = {
        one["State"]["Name"]
        for group in api.describe_instances()["Reservations"]
        for one in group["Instances"]
    }
    assert states == {"terminated"}
    assert api.describe_volumes()["Volumes"] == []
    assert api.describe_addresses()["Addresses"] == []
    assert [each["IsDefault"] for each in api.describe_vpcs()["Vpcs"]] == [True]
    assert emulator.client("iam").list_roles()["Roles"] == []
    assert emulator.client("cloudwatch").describe_alarms()["MetricAlarms"] == []


def flipped(project: AwsProject) -> dict[str, str]:
    """All that a flip changes."""
    return {
        "prepare-step": "update",
        f"changeover-{project.stack}-gateway": "replace",
        "commit-step": "update",
    }


def flip(project: AwsProject, engine: str) -> str:
    """A flip under load, which loses nothing.

    It touches what a flip may touch, and no instance, volume, network, IAM or edge.
    """
    project.configure(engine=engine)
    assert project.changes() == flipped(project)
    writes = project.aws_writes()
    with trusted(project), load_on(project) as load:
        load.wait_for_answers(8)
        text = project.up()
        load.wait_for_answers(8)
    assert not load.bad, load.summary()
    assert project.aws_writes() == writes
    assert project.outputs()["engine"] == engine
    assert complete(project)
    return text


def test_a_preview_works_before_anything_exists(project: AwsProject) -> None:
    assert set(project.changes().values()) == {"create"}
    said = project.pulumi("preview")
    assert "an hour" in said
    assert "quota: g4dn.xlarge needs 4 vCPUs of `All G and VT Spot Instance Requests`" in said


def test_up_from_nothing_ends_with_an_endpoint_that_answers(project: AwsProject, machines: Machines) -> None:
    text = project.up()
    assert "gate 3/3" in text
    assert project.outputs()["endpoint"] == f"https://{machines.only().address}/v1"
    assert complete(project)
    with pytest.raises(openai.AuthenticationError):
        complete(project, key="another-key-of-nobody")


def test_the_hosts_engine_is_one_that_takes_no_old_clients(host: SimulatedMachine) -> None:
    """As Docker 29, which AWS's image has: it wants version 1.44 of the API at the least."""
    said = host.inside("docker", "version", "--format", "{{.Server.Version}} {{.Server.MinAPIVersion}}")
    version, api = said.split()
    assert int(version.partition(".")[0]) >= 28
    assert api == "1.44"


def test_the_alarm_is_told_whether_the_endpoint_is_up(host: SimulatedMachine, emulator: Emulator) -> None:
    wait(lambda: up_says_the_probe(host, emulator) == 1, 60)  # Docker looks at a proxy every 15 s
    (edge,) = host.inside("docker", "ps", "--quiet", "--filter", "label=changeover.role=edge").split()
    host.inside("docker", "stop", edge)
    assert up_says_the_probe(host, emulator) == 0
    host.inside("docker", "start", edge)
    assert up_says_the_probe(host, emulator) == 1


def test_nothing_to_do_is_nothing_to_do(project: AwsProject) -> None:
    nothing_to_do(project)
    project.pulumi("refresh", "--yes", "--skip-preview")
    assert project.changes() == {}


def test_from_another_network_only_the_edge_answers(host: SimulatedMachine, machines: Machines) -> None:
    assert answering(host, machines) == ["443"]


def hang_up(project: AwsProject, host: SimulatedMachine) -> None:
    """End the connection that the last commands have shared: whoever comes next opens another one."""
    command = ["ssh", "-F", ".changeover/ssh/dev/config", "-O", "exit", host.instance]
    subprocess.run(command, cwd=project.folder, env=project.environment, capture_output=True, check=False)


def test_a_host_with_another_key_is_not_talked_to(
    project: AwsProject, host: SimulatedMachine, tmp_path: Path
) -> None:
    def ssh() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ssh", "-F", ".changeover/ssh/dev/config", host.instance, "true"],
            cwd=project.folder,
            env=project.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    assert ssh().returncode == 0
    hang_up(project, host)
    known = project.folder / ".changeover/ssh/dev/known_hosts"
    right = known.read_text()
    known.write_text(known_hosts("dev", keys.make(tmp_path, "another")[1]))
    refused = ssh()
    known.write_text(right)
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


def test_an_unreachable_host_is_said_in_the_preview_with_what_brings_it_back(
    project: AwsProject, host: SimulatedMachine, machines: Machines
) -> None:
    agent = machines.agents / host.instance
    process = agent.read_text()
    agent.unlink()
    hang_up(project, host)
    try:
        said = project.pulumi("preview")
    except CommandFailed as error:  # what then asks the host may fail
        said = str(error)
    finally:
        agent.write_text(process)
    assert f"SSH does not reach {host.instance}" in said
    assert "make recover STACK=dev" in said
    assert "Traceback" not in said


def test_a_secret_is_in_no_plain_text(
    project: AwsProject, host: SimulatedMachine, emulator: Emulator
) -> None:
    private = yaml.safe_load(project.pulumi("config", "get", "sshKeys", "--json"))["objectValue"]
    markers = [KEY, OTHERS_KEY, *(private[who].splitlines()[2] for who in ("host", "client"))]
    containers = host.inside("docker", "ps", "--all", "--quiet").split()
    (instance,) = [
        one["InstanceId"]
        for group in emulator.client("ec2").describe_instances()["Reservations"]
        for one in group["Instances"]
    ]
    assert instance == host.instance
    texts = {
        "state": project.state_text(),
        "preview": project.pulumi("preview", "--diff", "--show-sames"),
        "settings": project.settings_file.read_text(),
        "docker inspect": host.inside("docker", "inspect", *containers),
        "logs": "".join(host.inside("sh", "-c", f"docker logs {each} 2>&1") for each in containers),
        "boot script": (host.root / "usr/local/sbin/changeover-boot").read_text(),
        "boot log": (host.root / "var/log/cloud-init-output.log").read_text(),
        "processes": host.inside("ps", "-eo", "args"),
    }
    for place, text in texts.items():
        assert text, place
        assert not [marker for marker in markers if marker in text], place


def test_a_rotated_key_shows_in_the_preview_and_cuts_nobody(project: AwsProject) -> None:
    rotated = OTHERS_KEY[::-1]
    project.secret("apiKeys.other", rotated)
    preview = project.preview_json()
    (step,) = [each for each in preview["steps"] if each["op"] not in ("same", "read")]
    assert step["urn"].endswith("::keys-step")
    assert (step["op"], list(step["detailedDiff"])) == ("update", ["stdin"])
    assert rotated not in json.dumps(preview)
    tokens = 3000  # some 15 seconds
    with client_of(project, OTHERS_KEY) as old, load_on(project) as load:
        begun = old.chat.completions.create(
            model=load.model,
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=tokens,
            stream=True,
            stream_options={"include_usage": True},
        )
        next(begun)
        load.wait_for_answers(8)
        project.up()
        load.wait_for_answers(8)
        rest = list(begun)
    assert not load.bad, load.summary()
    assert [one.finish_reason for each in rest for one in each.choices if one.finish_reason] == ["length"]
    assert [each.usage.completion_tokens for each in rest if each.usage] == [tokens]
    assert complete(project, key=rotated)
    with pytest.raises(openai.AuthenticationError):
        complete(project, key=OTHERS_KEY)


def only_looked(calls: list[str]) -> None:
    """CI's role that looks may do all that a review and the look for drift ask of AWS."""
    assert {"ec2:DescribeInstances", "ssm:GetParameter"} <= set(calls)
    assert uncovered(calls, permissions.review_policy("changeover")) == []


def test_a_flip_is_reviewed_applied_by_its_plan_and_rolled_back_and_loses_nothing(
    project: AwsProject,
) -> None:
    checkout = Checkout(project)
    checkout.commit("What runs")
    project.up()
    writes = project.aws_writes()
    checkout.commit("Serve with vLLM", engine="vllm")
    shutil.rmtree(project.folder / ".changeover/ssh")  # a checkout in CI has none
    assert project.changes() == flipped(project)
    before = project.aws_counted()
    text = checkout.make("review")
    only_looked(project.aws_calls(before))
    assert text.startswith("Engine of `dev`: Ollama → vLLM by hold, requests wait about "), text
    assert "nothing is replaced but the gateway; back with `make rollback STACK=dev`" in text
    assert "), unchanged." in text, "the price"
    with trusted(project), load_on(project) as load:
        load.wait_for_answers(8)
        checkout.make("apply", REVIEW="reviews/dev")
        assert project.outputs()["engine"] == "vllm"
        load.wait_for_answers(8)
        nothing_to_do(project)
        text = checkout.make("rollback", YES="1")
        load.wait_for_answers(8)
    assert not load.bad, load.summary()
    assert "-  changeover:engine: vllm\n+  changeover:engine: ollama\n" in text
    assert project.outputs()["engine"] == "ollama"
    assert complete(project)
    assert project.aws_writes() == writes
    checkout.commit("Go back", engine="ollama")
    before = project.aws_counted()
    assert "no drift" in checkout.make("drift")
    only_looked(project.aws_calls(before))


@pytest.mark.long
def test_make_parity_probes_both_engines_on_the_host_and_leaves_nothing_behind(project: AwsProject) -> None:
    said = project.tool("parity")
    assert "The standby takes the place of the active engine" in said
    assert "ollama serves" in said
    table = json.loads((project.folder / "rendered/dev/parity.json").read_text())
    assert set(table["engines"]) == {"ollama", "vllm"}
    assert complete(project)
    assert project.changes() == {}


def test_make_watch_shows_the_gpu_of_the_host(project: AwsProject) -> None:
    said = project.tool("watch")
    for words in ("serves   ollama", "GPU 0", "50 %", "61 W, 55 °C", "CPUs"):
        assert words in said, (words, said)


def scraped(address: str) -> set[str]:
    """What the store behind this address of the page scrapes, and gets; nothing where none is reached."""
    root = address.partition("/vmui")[0]
    try:
        with urllib.request.urlopen(f"{root}/api/v1/query?query=up%20%3D%3D%201", timeout=30) as answer:
            return {line["metric"]["job"] for line in json.load(answer)["data"]["result"]}
    except OSError:
        return set()


def reaches_what_scrapes(project: AwsProject, jobs: set[str]) -> None:
    """`make dashboard` opens the way to a store that scrapes these, and gets them, and closes it again."""
    with project.running("dashboard") as said:
        address = next(line for line in said if line.startswith("pages: ")).split()[1]
        # the stand-in's gateway has no metrics, and is one that is down
        wait(lambda: scraped(address) == jobs, 60, "it scrapes something else")
    assert not scraped(address), "the way is closed with Ctrl-C"


@pytest.mark.long
def test_a_monitors_page_is_reached_by_ssh_alone_and_nothing_of_it_stays_but_what_it_has_kept(
    project: AwsProject, host: SimulatedMachine, machines: Machines
) -> None:
    project.configure(monitor=True)
    project.up()
    assert project.changes() == {}
    assert answering(host, machines) == ["443"]
    reaches_what_scrapes(project, {"switch", "proxy"})  # Ollama has no metrics
    project.configure(monitor=None)
    project.up()
    names = host.inside("docker", "ps", "--all", "--format", "{{.Names}}").split()
    assert names and not [name for name in names if "monitor" in name or "alerts" in name]
    volumes = host.inside("docker", "volume", "ls", "--format", "{{.Name}}").split()
    assert {name for name in volumes if "monitor" in name} == {
        "changeover-dev-monitor-config",
        "changeover-dev-monitor-history",
    }, "they stay until `make gc`"
    nothing_to_do(project)


@pytest.mark.long
def test_a_monitor_scrapes_vllm_while_it_serves(project: AwsProject) -> None:
    flip(project, "vllm")
    project.configure(monitor=True)
    project.up()
    reaches_what_scrapes(project, {"switch", "proxy", "vllm"})
    project.configure(monitor=None)
    project.up()
    flip(project, "ollama")


@pytest.mark.long
def test_overlap_is_one_setting_away_and_the_way_back_by_it_loses_nothing(project: AwsProject) -> None:
    """vLLM serves with all of the GPU, so the first update makes room, by a hold."""
    flip(project, "vllm")
    nothing_to_do(project)
    project.configure(cutover="overlap")
    assert "`cutover` was hold at the last update" in project.pulumi("preview")
    with trusted(project), load_on(project) as load:
        load.wait_for_answers(8)
        assert "one at a time: " in project.up()
        load.wait_for_answers(8)
    assert not load.bad, load.summary()
    nothing_to_do(project)
    assert "overlap" in flip(project, "ollama")
    nothing_to_do(project)
    project.configure(cutover=None)
    project.up()
    nothing_to_do(project)


@pytest.mark.long
def test_without_a_gateway_the_endpoint_answers_and_no_alarm_is_raised(
    project: AwsProject, host: SimulatedMachine, emulator: Emulator
) -> None:
    for gateway in ("none", None):
        project.configure(gateway=gateway)
        with trusted(project), load_on(project) as load:
            load.wait_for_answers(8)
            project.up()
            load.wait_for_answers(8)
        assert not load.bad, load.summary()
        wait(lambda: up_says_the_probe(host, emulator) == 1, 60)
        nothing_to_do(project)


def test_access_log_and_certificates_reach_cloudwatch_without_prompts_and_keys(
    project: AwsProject, emulator: Emulator
) -> None:
    complete(project)
    with client_of(project) as client:
        client.models.list(extra_headers={"X-Tenant-ID": "other"})

    def models() -> list[dict[str, Any]]:
        return [each for each in logged(emulator, "proxy") if each.get("endpoint") == "/v1/models"]

    wait(lambda: bool(models()), 120)
    (line,) = models()
    assert (line["tenant"], line["status"]) == ("tester", 200), "a key decides the tenant"
    lines = logged(emulator, "proxy")
    # parity has asked in this name too, for what is refused as well
    assert any(each["stream"] and each["status"] == 200 for each in lines if each.get("tenant") == "other")
    assert not [mark for mark in (PROMPT, KEY, OTHERS_KEY) if mark in json.dumps(lines)]
    wait(lambda: any(each.get("mode") == "hold" for each in logged(emulator, "switch")), 120)


def test_what_was_changed_behind_its_back_is_found_and_put_right(
    project: AwsProject, emulator: Emulator, host: SimulatedMachine, machines: Machines
) -> None:
    api = emulator.client("ec2")
    (group,) = [
        each["GroupId"]
        for each in api.describe_security_groups()["SecurityGroups"]
        if each["GroupName"].startswith("changeover-dev-firewall")
    ]
    everybody = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    api.authorize_security_group_ingress(GroupId=group, IpPermissions=everybody)
    (volume,) = api.describe_volumes(Filters=[{"Name": "tag:Name", "Values": ["changeover-dev-data"]}])[
        "Volumes"
    ]
    api.create_tags(Resources=[volume["VolumeId"]], Tags=[{"Key": "Name", "Value": "somebody-elses"}])
    rule = ("tcp", 22, "0.0.0.0/0")
    wait(lambda: rule in (host.rules or []), 120)
    found = sorted(drift(parse(events_of("dev", root=project.folder, env=project.environment))))
    opened = "`changeover-dev-firewall` (SecurityGroup): port 22 is open to 0.0.0.0/0 (everybody)"
    assert found[0] == opened
    assert "tags.Name is somebody-elses and was changeover-dev-data" in found[1]
    assert len(found) == 2
    project.up("--refresh")
    wait(lambda: rule not in (host.rules or []), 120)
    nothing_to_do(project)


def test_a_stopped_instance_is_said_and_make_wake_starts_it(
    project: AwsProject, emulator: Emulator, host: SimulatedMachine
) -> None:
    emulator.client("ec2").stop_instances(InstanceIds=[host.instance])
    wait(lambda: host.process is None, 120)
    stopped = f"the instance {host.instance} of stack `dev` is stopped; nothing was changed"
    with pytest.raises(CommandFailed, match=stopped) as refusal:
        project.up()
    assert "make wake STACK=dev" in str(refusal.value)
    assert "Traceback" not in str(refusal.value)
    assert f"{host.instance} is up." in project.tool("wake")
    wait(lambda: answers(project), 300)
    nothing_to_do(project)


@pytest.mark.long
def test_a_larger_data_volume_is_grown_in_place(project: AwsProject, emulator: Emulator) -> None:
    project.configure(dataVolumeGiB=220)
    assert project.changes() == {"data": "update", "ready": "update"}
    project.up()
    named = [{"Name": "tag:Name", "Values": ["changeover-dev-data"]}]
    (volume,) = emulator.client("ec2").describe_volumes(Filters=named)["Volumes"]
    assert volume["Size"] == 220
    nothing_to_do(project)


def test_spot_taken_away_and_another_type_of_a_spot_instance_are_another_instance(
    project: AwsProject,
) -> None:
    project.configure(spot=False)
    assert project.changes()["instance"] == "replace"
    project.configure(spot=True, instanceType="g4dn.2xlarge")
    assert project.changes()["instance"] == "replace"
    project.configure(instanceType=None)
    assert project.changes() == {}


def test_a_new_machine_image_replaces_the_instance_and_keeps_the_weights(
    project: AwsProject, emulator: Emulator, machines: Machines
) -> None:
    old = machines.only()
    address, ca = old.address, project.outputs()["ca"]
    disk = old.inside("blkid", "-s", "UUID", "-o", "value", "/dev/nvme1n1")
    before = old.inside("sh", "-c", WEIGHTS)
    assert "config.json" in before
    emulator.publish_machine_image()
    assert project.changes() == {}, "a newer image alone changes nothing"
    project.configure(amiRefresh="2027-01-31")
    changes = project.changes()
    assert changes["instance"] == "replace"
    assert changes["changeover-dev-edge"] == "replace"
    untouched = {"data", "address", "host-key", "deployer", "changeover-dev-network-vpc"}
    assert not untouched & changes.keys()
    assert "this replaces the instance" in project.pulumi("preview")
    project.up()
    new = machines.only()
    assert new.instance != old.instance
    assert new.address == address
    assert project.outputs()["ca"] == ca
    assert new.inside("blkid", "-s", "UUID", "-o", "value", "/dev/nvme1n1") == disk
    assert new.inside("sh", "-c", WEIGHTS) == before
    assert complete(project)
    nothing_to_do(project)


@pytest.mark.long
def test_make_recover_brings_an_instance_back_that_was_terminated_by_hand(
    project: AwsProject, emulator: Emulator, machines: Machines
) -> None:
    old = machines.only()
    address, before = old.address, old.inside("sh", "-c", WEIGHTS)
    emulator.client("ec2").terminate_instances(InstanceIds=[old.instance])
    wait(lambda: old.process is None, 120)
    try:
        said = project.pulumi("preview")
    except CommandFailed as error:  # what then asks the host may fail
        said = str(error)
    assert "which this state does not know: the spot request sir-" in said
    said = project.tool("recover")
    assert f"The instance {old.instance} is gone." in said
    assert "Lost: the instance, and requests until it is back." in said
    new = machines.only()
    assert new.instance != old.instance
    assert new.address == address
    assert new.inside("sh", "-c", WEIGHTS) == before
    assert complete(project)
    nothing_to_do(project)


@pytest.mark.long
def test_another_zone_is_said_with_what_is_lost_and_gets_an_endpoint_again(
    project: AwsProject, emulator: Emulator, machines: Machines
) -> None:
    old = machines.only()
    address = old.address
    project.configure(zone="us-east-1b")
    said = project.pulumi("preview")
    assert "the zone changes from us-east-1a to us-east-1b" in said
    assert "weights are fetched again" in said
    project.up()
    new = machines.only()
    assert new.instance != old.instance
    assert new.address == address
    named = [{"Name": "tag:Name", "Values": ["changeover-dev-data"]}]
    (volume,) = emulator.client("ec2").describe_volumes(Filters=named)["Volumes"]
    assert volume["AvailabilityZone"] == "us-east-1b"
    assert complete(project)
    nothing_to_do(project)


def test_destroy_leaves_nothing(project: AwsProject, emulator: Emulator) -> None:
    project.pulumi("destroy", "--yes", "--skip-preview")
    nothing_is_left(emulator)


def test_the_deployers_policy_covers_every_call_that_was_seen(project: AwsProject) -> None:
    seen = set(project.aws_calls())
    assert {"ec2:RunInstances", "ec2:TerminateInstances", "ec2:StartInstances"} <= seen
    assert uncovered(project.aws_calls(), permissions.policy("changeover")) == []
