"""The main job, told in order on the real engines: deploy, flip, flip back, break it, take it down.

Each test goes on where the one before it stopped, as an operator would.
"""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from components import pins
from tests.support.load import LoadGenerator
from tests.support.project import CommandFailed, Project, docker, kill_group, offline_settings, patched

pytestmark = pytest.mark.engine

FLIP = {"prepare-step": "update", "test-gateway": "replace", "commit-step": "update"}
"""All that a flip touches, and nothing else: the promise to the reviewer."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A stack `test` with offline images and the tiny model; nothing of it is left afterwards."""
    project = Project(tmp_path_factory.mktemp("project"), "test", **offline_settings(parallel=2))
    project.wipe()  # what a killed run left behind
    yield project
    project.wipe()


def load_on(project: Project, **more: Any) -> LoadGenerator:
    """Real engines need the machine's cores, and so does the change: the clients pause for longer."""
    outputs = project.outputs()
    about = {"endpoint": outputs["endpoint"], "model": outputs["model"], "pause": 0.5}
    return LoadGenerator(**{**about, **more})


def nothing_to_do(project: Project) -> None:
    """Neither settings and state differ, nor state and what there is."""
    project.pulumi("preview", "--refresh", "--expect-no-changes")


def complete(project: Project, *, api_key: str = "none") -> str:
    outputs = project.outputs()
    with openai.OpenAI(base_url=outputs["endpoint"], api_key=api_key, max_retries=0, timeout=120) as client:
        answer = client.chat.completions.create(
            model=outputs["model"], messages=[{"role": "user", "content": "Hi."}], max_tokens=8
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    assert answer.choices[0].finish_reason
    return answer.choices[0].message.content or ""


def test_up_from_nothing_ends_with_an_endpoint_that_answers(project: Project) -> None:
    text = project.up()
    assert "gate 3/3" in text
    assert project.live().startswith("changeover-test-ollama-")
    assert complete(project)
    assert project.outputs()["engine"] == "ollama"
    assert project.outputs()["cutover"] == "hold"


def test_only_the_edge_publishes_a_port(project: Project) -> None:
    published = docker(
        "ps", "--filter", f"label=changeover.stack={project.stack}", "--format", "{{.Names}} {{.Ports}}"
    )
    with_port = [line.split()[0] for line in published.splitlines() if "->" in line]
    assert with_port == project.containers("edge")
    assert "0.0.0.0:" not in published


def test_nothing_to_do_is_nothing_to_do(project: Project) -> None:
    assert project.changes() == {}
    project.pulumi("refresh", "--yes", "--skip-preview")
    assert project.changes() == {}


def test_the_preview_of_a_flip_shows_one_line_of_toml_and_three_changes(project: Project) -> None:
    project.configure(engine="vllm")
    assert {name.replace("changeover-", ""): op for name, op in project.changes().items()} == FLIP
    diff = project.pulumi("preview", "--diff")
    assert '- routing = ["ollama", "vllm"]' in diff
    assert '+ routing = ["vllm", "ollama"]' in diff


def test_a_flip_to_vllm_under_load_loses_nothing(project: Project) -> None:
    with load_on(project) as load:
        load.wait_for_answers(4)
        text = project.up()
        load.wait_for_answers(4)
    assert not load.bad, load.summary()
    steps = ("drained in", "ollama stopped (", "gate 3/3 passed", "gateway answers", "released after")
    assert [step for step in steps if step not in text] == []
    assert project.live().startswith("changeover-test-vllm-")
    assert project.outputs()["engine"] == "vllm"
    assert complete(project)


def test_a_prompt_that_is_too_long_is_the_engines_own_error(project: Project) -> None:
    outputs = project.outputs()
    with (
        openai.OpenAI(base_url=outputs["endpoint"], api_key="none", max_retries=0, timeout=120) as client,
        pytest.raises(openai.BadRequestError) as refused,
    ):
        client.chat.completions.create(
            model=outputs["model"], messages=[{"role": "user", "content": "word " * 5000}]
        )
    assert "maximum context length is" in refused.value.message


def test_after_the_flip_refresh_and_preview_are_empty(project: Project) -> None:
    test_nothing_to_do_is_nothing_to_do(project)


def test_the_way_back_under_load_loses_nothing_and_downloads_nothing(project: Project) -> None:
    project.configure(engine="ollama")
    with load_on(project) as load:
        load.wait_for_answers(4)
        text = project.up()
        load.wait_for_answers(4)
    assert not load.bad, load.summary()
    assert "-weights" not in text
    assert project.live().startswith("changeover-test-ollama-")
    nothing_to_do(project)


def test_a_changed_context_is_another_engine_to_switch_to(project: Project) -> None:
    before = project.live()
    project.configure(context=768)
    with load_on(project) as load:
        load.wait_for_answers(2)
        project.up()
        load.wait_for_answers(2)
    assert not load.bad, load.summary()
    assert project.live().startswith("changeover-test-ollama-")
    assert project.live() != before
    assert before not in project.containers("engine")
    assert project.outputs()["model"] == "tiny"
    nothing_to_do(project)


def test_another_model_under_a_fixed_name_is_a_change_like_any_other(project: Project) -> None:
    project.configure(name="tiny")
    assert project.changes() == {}
    before, catalogued = project.live().rpartition("-")[0], '"""Every model by its name."""'
    other = 'from dataclasses import replace\n\nMODELS["other"] = replace(MODELS["tiny"], name="other")\n'
    with patched(project, "components/catalogue.py", catalogued, f"{catalogued}\n{other}"):
        for model in ("other", "tiny"):
            project.configure(model=model)
            with load_on(project) as load:
                load.wait_for_answers(2)
                text = project.up()
                load.wait_for_answers(2)
            assert not load.bad, load.summary()
            assert project.outputs()["model"] == "tiny"
            assert (project.live().rpartition("-")[0] == before) is (model == "tiny")
            nothing_to_do(project)
    assert "weights already here (tiny-" in text, "the way back downloads nothing"
    project.configure(name=None)
    assert project.changes() == {}


def test_another_name_is_a_change_in_which_the_old_one_is_answered(project: Project) -> None:
    for before, name in (("tiny", "other-name"), ("other-name", None)):
        project.configure(name=name)
        with load_on(project, model=before) as load:
            load.wait_for_answers(4)
            project.up()
            load.wait_for_answers(4)
        assert not load.bad, load.summary()
        assert project.outputs()["model"] == (name or "tiny")
        assert complete(project)
        nothing_to_do(project)


def test_a_new_version_of_the_proxy_takes_over_and_cuts_nobody(project: Project) -> None:
    (old,) = project.containers("proxy")
    with load_on(project, clients=8) as load:
        load.wait_for_answers(8)
        with patched(
            project, "proxy/server.py", "GATEWAY_AGAIN_SECONDS = 0.2\n", "GATEWAY_AGAIN_SECONDS = 0.3\n"
        ):
            project.up()
            (new,) = project.containers("proxy")
            load.wait_for_answers(8)
        project.up()
        load.wait_for_answers(8)
    assert not load.bad, load.summary()
    assert new != old
    nothing_to_do(project)


def test_an_engine_that_misses_its_deadline_leaves_the_old_one_serving(project: Project) -> None:
    before = project.live()
    project.configure(engine="vllm", loadSeconds=2)
    with load_on(project) as load:
        load.wait_for_answers(2)
        with pytest.raises(CommandFailed) as failure:
            project.up()
        load.wait_for_answers(2)
    assert not load.bad, load.summary()
    assert project.live() == before
    assert "was not ready after 2 s" in str(failure.value)
    project.configure(engine="ollama", loadSeconds=None)
    project.up()
    nothing_to_do(project)


def test_weights_that_are_missing_are_found_before_anything_is_held(project: Project) -> None:
    (switch,) = project.containers("switch")
    docker("exec", switch, "sh", "-c", "for f in /weights/vllm/*/.complete; do mv $f $f.away; done")
    try:
        project.configure(engine="vllm")
        refused_without_a_hold(project, "are not on this host, or not complete")
    finally:
        docker(
            "exec", switch, "sh", "-c", "for f in /weights/vllm/*/.complete.away; do mv $f ${f%.away}; done"
        )
        project.configure(engine="ollama")
    assert project.live().startswith("changeover-test-ollama-")
    nothing_to_do(project)


def refused_without_a_hold(project: Project, expected: str) -> None:
    """`up` fails as expected while the old engine goes on and nobody waits for it."""
    before = project.live()
    with load_on(project) as load:
        load.wait_for_answers(2)
        with pytest.raises(CommandFailed, match=expected):
            project.up()
        load.wait_for_answers(2)
    assert not load.bad, load.summary()
    assert load.longest < 20, "nothing should have been held"
    assert project.live() == before


def test_a_disk_too_small_for_the_weights_is_found_before_anything_is_held(project: Project) -> None:
    with patched(project, "components/models.toml", "size = 2_000_000", "size = 2_000_000_000_000_000"):
        refused_without_a_hold(project, r"need [\d.]+ GiB, and [\d.]+ GiB")
    project.up()
    nothing_to_do(project)


def test_a_config_that_the_gateway_refuses_is_found_before_anything_is_held(project: Project) -> None:
    with patched(project, "components/tensorzero.py", '"disable_pseudonymous', '"disable_every_pseudonymous'):
        refused_without_a_hold(project, "disable_every_pseudonymous")
    project.up()
    nothing_to_do(project)


def test_an_image_whose_engine_exits_at_once_is_taken_back(project: Project, tmp_path: Path) -> None:
    broken = pins.OLLAMA.offline.replace(pins.OLLAMA.version, "0.0.0-exits")
    (tmp_path / "ollama").write_text("#!/bin/sh\necho 'no such library: libnothing.so' >&2\nexit 3\n")
    (tmp_path / "ollama").chmod(0o755)
    container = docker("create", pins.SWITCH.offline).strip()
    docker("cp", str(tmp_path / "ollama"), f"{container}:/bin/ollama")
    docker("commit", container, broken)
    docker("rm", container)
    before = project.live()
    try:
        with (
            patched(
                project, "components/pins.py", f'version="{pins.OLLAMA.version}"', 'version="0.0.0-exits"'
            ),
            load_on(project) as load,
        ):
            load.wait_for_answers(2)
            with pytest.raises(CommandFailed) as failure:
                project.up()
            load.wait_for_answers(2)
        assert not load.bad, load.summary()
        assert "libnothing.so" in str(failure.value), "the engine's own last words"
        assert project.live() == before
        project.up()
        nothing_to_do(project)
    finally:
        docker("rmi", "--force", broken)


@pytest.mark.long
def test_pulumi_killed_in_the_middle_of_a_hold_restores_and_the_next_up_converges(
    project: Project, tmp_path: Path
) -> None:
    before = project.live()
    project.configure(engine="vllm")
    log = tmp_path / "up.log"
    with load_on(project) as load:
        load.wait_for_answers(2)
        update = project.start("up", "--yes", "--skip-preview", log=log)
        deadline = time.monotonic() + 120
        while "loading" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            assert update.poll() is None, log.read_text()
            time.sleep(0.2)
        kill_group(update)
        while not project.settled():
            assert time.monotonic() < deadline + 120, "the old engine did not come back by itself"
            time.sleep(1)
        assert project.live() == before
        load.wait_for_answers(4)
    assert not load.bad, load.summary()

    with pytest.raises(CommandFailed, match="lock"):
        project.up()
    project.pulumi("cancel", "--yes")
    with load_on(project) as load:
        load.wait_for_answers(2)
        project.up()
        load.wait_for_answers(2)
    assert not load.bad, load.summary()
    assert project.live().startswith("changeover-test-vllm-")
    nothing_to_do(project)
    project.configure(engine="ollama")
    project.up()


def status_of(project: Project, *, api_key: str | None) -> int:
    request = urllib.request.Request(f"{project.outputs()['endpoint']}/models")
    if api_key is not None:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_key_is_added_and_rotated_under_load_and_cuts_nobody(project: Project) -> None:
    first, second, other = "first-key-0123456789", "second-key-0123456789", "other-key-0123456789"

    def set_key(tenant: str, key: str) -> None:
        project.pulumi("config", "set", "--secret", "--path", f"apiKeys.{tenant}", key)
        assert project.changes() == {"keys-step": "update"}
        project.up()

    with load_on(project, api_key=first, clients=8) as load:
        load.wait_for_answers(8)
        set_key("acme", first)
        load.wait_for_answers(8)
        set_key("other", other)
        load.wait_for_answers(8)
        set_key("other", second)
        load.wait_for_answers(8)
    assert not load.bad, load.summary()
    assert status_of(project, api_key=None) == 401
    assert status_of(project, api_key=other) == 401
    assert status_of(project, api_key=second) == 200


def test_secrets_are_in_no_state_no_container_and_no_log(project: Project) -> None:
    state = "".join(file.read_text() for file in (project.folder / "state").rglob("*.json") if file.is_file())
    filters = ("--filter", f"label=changeover.stack={project.stack}")
    names = docker("ps", "--all", "--format", "{{.Names}}", *filters).split()
    assert state and names
    places = {"state": state, **{name: docker("inspect", name) + logged(name) for name in names}}
    keys = ("first-key", "second-key", "other-key")
    assert [(place, key) for place, text in places.items() for key in keys if key in text] == []


def logged(container: str) -> str:
    """All that a container has written, errors too."""
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_the_access_log_names_tenant_model_status_and_time_and_never_the_prompt(project: Project) -> None:
    complete(project, api_key="second-key-0123456789")
    (proxy,) = project.containers("proxy")
    said = logged(proxy)
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    entry = next(line for line in reversed(lines) if line.get("tenant") == "other")
    assert entry["model"] == "tiny"
    assert entry["status"] == 200
    assert entry["total_ms"] > 0
    assert "Hi." not in said


def test_the_last_key_goes_and_cuts_nobody_who_sends_it(project: Project) -> None:
    with load_on(project, api_key="second-key-0123456789", clients=8) as load:
        load.wait_for_answers(8)
        project.pulumi("config", "rm", "apiKeys")
        project.up()
        load.wait_for_answers(8)
    assert not load.bad, load.summary()
    assert status_of(project, api_key=None) == 200


def test_destroy_leaves_no_container_and_no_network(project: Project) -> None:
    project.pulumi("destroy", "--yes", "--skip-preview")
    filters = ("--filter", f"label=changeover.stack={project.stack}")
    assert docker("ps", "--all", "--quiet", *filters) == ""
    assert docker("network", "ls", "--quiet", *filters) == ""
    assert docker("volume", "ls", "--quiet", *filters), "the weights are kept"
