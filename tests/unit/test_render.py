"""The rendered files follow the settings, and a flip is a diff of a few lines."""

import difflib
from dataclasses import replace
from pathlib import Path

import pytest

from common import ROOT
from stacks.blueprint import blueprint_of
from stacks.settings import from_values, stacks
from tools import render
from tools.render import files
from tools.settings_table import PAGE, with_table

BASE = {"engine": "ollama", "target": "docker", "model": "qwen-2.5-coder-0.5b"}


def rendered(**values: object) -> dict[str, str]:
    return files(blueprint_of(from_values("local", {**BASE, **values}, ROOT)))


@pytest.mark.parametrize("stack", stacks(ROOT))
def test_no_rendered_file_is_stale(stack: str) -> None:
    names = render.stale(ROOT, stack)
    assert not names, f"rendered/{stack}/ is stale: {', '.join(names)}. Run: make render"


def test_the_table_of_settings_is_not_stale() -> None:
    page = (ROOT / PAGE).read_text()
    assert with_table(page, ROOT) == page, "Run: make render"


def test_a_file_edited_by_hand_is_found_and_one_too_many_is_removed(tmp_path: Path) -> None:
    for name in ("Pulumi.yaml", "Pulumi.local.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    folder = tmp_path / "rendered" / "local"
    render.write(tmp_path, "local")
    assert render.stale(tmp_path, "local") == []
    (folder / "tensorzero.toml").write_text("[gateway]\n")
    (folder / "left-over.txt").write_text("")
    assert render.stale(tmp_path, "local") == ["left-over.txt", "tensorzero.toml"]
    render.write(tmp_path, "local")
    assert render.stale(tmp_path, "local") == []


def test_each_file_is_to_be_read_at_the_first_stack_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
    for name in ("first", "second", "third"):
        (tmp_path / f"Pulumi.{name}.yaml").write_text((ROOT / "Pulumi.local.yaml").read_text())
        render.write(tmp_path, name)
    (tmp_path / "rendered" / "third" / "parity.md").write_text("measured, and so of this stack alone")
    files = sorted(render.written(tmp_path, "first"))
    assert "Caddyfile" in files and len(files) > 3
    twins = [render.twins(tmp_path, name) for name in ("first", "second", "third")]
    assert twins == [{}, {"first": files}, {"first": files}]
    for name in ("second", "third"):
        (tmp_path / "rendered" / name / "Caddyfile").write_text("of these two")
    (tmp_path / "rendered" / "third" / "one-more.txt").write_text("of no other")
    rest = [file for file in files if file != "Caddyfile"]
    assert render.twins(tmp_path, "second") == {"first": rest}
    assert render.twins(tmp_path, "third") == {"second": ["Caddyfile"], "first": rest}


def test_a_flip_changes_one_line_of_each_toml_and_one_of_the_cutover() -> None:
    before, after = rendered(engine="ollama"), rendered(engine="vllm")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"routing.toml", "tensorzero.toml", "cutover.txt"}
    ollama, vllm = (before["routing.toml"].splitlines()[1].split('"')[at] for at in (1, 3))
    for name, expected in (
        (
            "routing.toml",
            [f'-engines = ["{ollama}", "{vllm}"]', f'+engines = ["{vllm}", "{ollama}"]'],
        ),
        ("tensorzero.toml", ['-routing = ["ollama", "vllm"]', '+routing = ["vllm", "ollama"]']),
        ("cutover.txt", ["-engine: ollama", "+engine: vllm"]),
    ):
        diff = difflib.unified_diff(before[name].splitlines(), after[name].splitlines(), n=0, lineterm="")
        assert [line for line in diff if not line.startswith(("---", "+++", "@@"))] == expected


def test_without_a_gateway_a_flip_is_one_line_of_routing_and_there_is_no_toml_of_one() -> None:
    before, after = (rendered(engine=engine, gateway="none") for engine in ("ollama", "vllm"))
    assert "tensorzero.toml" not in before
    assert {name for name in before if before[name] != after[name]} == {"routing.toml", "cutover.txt"}


def test_another_model_under_the_same_name_is_one_that_edge_and_clients_do_not_see() -> None:
    before, after = (rendered(model=f"qwen-2.5-coder-{size}", name="chat") for size in ("0.5b", "1.5b"))
    assert before["Caddyfile"] == after["Caddyfile"]
    changed = [
        line
        for line in difflib.ndiff(
            before["tensorzero.toml"].splitlines(), after["tensorzero.toml"].splitlines()
        )
        if line.startswith(("- ", "+ "))
    ]
    assert len(changed) == 4
    assert all("api_base" in line for line in changed)
    assert "[models.chat]" in after["tensorzero.toml"]


def test_the_image_source_changes_nothing_that_is_reviewed() -> None:
    offline = from_values("local", {**BASE, "model": "tiny", "images": "offline"}, ROOT)
    assert files(blueprint_of(offline)) == files(blueprint_of(replace(offline, images="public")))


def test_keys_and_tenants_change_no_rendered_file() -> None:
    assert rendered(apiKeys={"acme": "0123456789abcdef-secret"}) == rendered()


def test_what_a_monitor_runs_by_is_rendered_and_a_flip_changes_nothing_of_it() -> None:
    before, after = (rendered(engine=engine, monitor=True) for engine in ("ollama", "vllm"))
    more = before.keys() - rendered().keys()
    assert {
        "monitor-scrape.yml",
        "monitor-rules.yml",
        "monitor-grafana.json",
        "monitor-1-overview.json",
    } <= more
    assert all(name.startswith("monitor-") for name in more)
    assert all(before[name] == after[name] for name in more)
    assert all(before[name] == rendered()[name] for name in rendered() if name != "cutover.txt")
    assert "job_name: gateway" in before["monitor-scrape.yml"]
    without = rendered(monitor=True, images="offline", model="tiny")
    assert "job_name: gateway" not in without["monitor-scrape.yml"], "its offline image has no metrics"
