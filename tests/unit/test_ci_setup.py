"""`make ci-setup`: whom CI's roles trust, for the repository that a checkout is of."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common import ROOT, StepFailed
from components.aws import ci, permissions
from components.aws.ci import Repository
from tools import ci_setup

HERE = Repository(owner="acme", name="llm", owner_id=123456, id=789012)
ACCOUNT = "123456789012"


def subjects(policy: dict[str, Any]) -> list[str]:
    (statement,) = policy["Statement"]
    condition = statement["Condition"]
    assert set(condition) == {"StringEquals"}, "a pattern would trust what nobody thought of"
    assert condition["StringEquals"]["token.actions.githubusercontent.com:aud"] == "sts.amazonaws.com"
    found: list[str] = condition["StringEquals"]["token.actions.githubusercontent.com:sub"]
    return found


def test_a_review_is_trusted_for_pull_requests_and_main_in_both_forms_of_githubs_subjects() -> None:
    assert subjects(ci.trust(HERE, ci.REVIEW, ACCOUNT)) == [
        "repo:acme/llm:pull_request",
        "repo:acme/llm:ref:refs/heads/main",
        "repo:acme@123456/llm@789012:pull_request",
        "repo:acme@123456/llm@789012:ref:refs/heads/main",
    ]


def test_an_apply_is_trusted_in_the_environments_of_the_stacks_only() -> None:
    found = subjects(ci.trust(HERE, ci.apply_places(["dev", "prod"]), ACCOUNT))
    assert found[:2] == ["repo:acme/llm:environment:dev", "repo:acme/llm:environment:prod"]
    assert found[2:] == [each.replace("acme/llm", "acme@123456/llm@789012") for each in found[:2]]


def test_a_workflow_asks_for_no_role_where_nobody_trusts_it() -> None:
    """Apply and rollback run in an environment, review and drift for pull requests and on `main`."""
    folder = ROOT / ".github" / "workflows"
    for file in folder.iterdir():
        text = file.read_text()
        assert ("AWS_APPLY_ROLE" in text) == ("environment: ${{" in text), file.name


def test_who_only_looks_writes_no_state_and_encrypts_nothing() -> None:
    looks, changes = (ci.state("b", "alias/k", ACCOUNT, changes=each) for each in (False, True))
    actions = [
        [action for each in policy["Statement"] for action in each["Action"]] for policy in (looks, changes)
    ]
    assert actions[0] == ["s3:ListBucket", "s3:GetObject", "kms:Decrypt"]
    assert set(actions[1]) - set(actions[0]) == {"s3:PutObject", "s3:DeleteObject", "kms:Encrypt"}
    assert changes["Statement"][2]["Condition"] == {
        "ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/k"}
    }


@pytest.mark.parametrize("folder", ["", "/team/llm"])
def test_a_role_may_read_the_state_where_pulumi_keeps_it(folder: str) -> None:
    where = ci_setup.place(f"s3://acme-state{folder}/?region=eu-west-1")
    listed, objects, _ = ci.state(where, "alias/k", ACCOUNT, changes=False)["Statement"]
    assert listed["Resource"] == "arn:aws:s3:::acme-state"
    assert objects["Resource"] == f"arn:aws:s3:::acme-state{folder}/.pulumi/*"


def test_cis_roles_are_none_that_the_deployer_may_change(tmp_path: Path) -> None:
    roles = {
        line.split("--role-name ")[1].split()[0] for line in ci_setup.commands(tmp_path).splitlines()[1:]
    }
    assert roles == {"ci-changeover-review", "ci-changeover-apply"}
    assert not [role for role in roles if role.startswith("changeover-")]


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/acme/llm.git\n",
        "https://github.com/acme/llm",
        "git@github.com:acme/llm.git",
        "ssh://git@github.com/acme/llm.git",
    ],
)
def test_the_repository_is_that_of_the_checkout(url: str) -> None:
    assert ci_setup.remote(url) == ("acme", "llm")


def test_another_forge_is_refused() -> None:
    with pytest.raises(StepFailed, match="not a repository on GitHub"):
        ci_setup.remote("https://gitlab.com/acme/llm.git")


def gh(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "gh").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "gh").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_the_ids_are_githubs_or_those_that_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "[ \"$*\" = 'api repos/acme/llm --jq [.owner.id, .id]' ] && echo '[123456, 789012]'"
    gh(tmp_path, monkeypatch, asked)
    assert ci_setup.ids("acme", "llm") == (123456, 789012)
    gh(tmp_path, monkeypatch, "echo 'HTTP 404' >&2; exit 1")
    with pytest.raises(StepFailed, match=r"HTTP 404\n.*OWNER_ID=… REPOSITORY_ID=… make ci-setup"):
        ci_setup.ids("acme", "llm")
    monkeypatch.setenv("OWNER_ID", "1")
    monkeypatch.setenv("REPOSITORY_ID", "2")
    assert ci_setup.ids("acme", "llm") == (1, 2)


@pytest.mark.parametrize(("owner", "repository"), [("acme", "2"), ("1", ""), ("", "2"), ("1", "two")])
def test_ids_that_are_no_numbers_are_refused(
    monkeypatch: pytest.MonkeyPatch, owner: str, repository: str
) -> None:
    monkeypatch.setenv("OWNER_ID", owner)
    monkeypatch.setenv("REPOSITORY_ID", repository)
    with pytest.raises(StepFailed, match="OWNER_ID and REPOSITORY_ID are numbers, and both are needed"):
        ci_setup.ids("acme", "llm")


def test_without_gh_it_says_how_the_ids_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StepFailed, match=r"gh api repos/acme/llm --jq '\[\.owner\.id, \.id\]'"):
        ci_setup.ids("acme", "llm")


def test_bucket_and_key_are_those_of_state_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHANGEOVER_BACKEND", raising=False)
    with pytest.raises(StepFailed, match="s3://NAME"):
        ci_setup.backend()
    monkeypatch.setenv("CHANGEOVER_BACKEND", "s3://acme-state?region=eu-west-1")
    assert ci_setup.backend() == "s3://acme-state?region=eu-west-1"
    file = tmp_path / "Pulumi.prod.yaml"
    file.write_text("secretsprovider: awskms://alias/changeover?region=eu-west-1\n")
    assert ci_setup.key_alias(["prod"], tmp_path) == "alias/changeover"
    file.write_text("config: {}\n")
    with pytest.raises(StepFailed, match="secrets-provider"):
        ci_setup.key_alias(["prod"], tmp_path)


@pytest.mark.parametrize("query", ["", "?region=", "?awssdk=v2"])
def test_a_bucket_without_its_region_is_refused(monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    monkeypatch.setenv("CHANGEOVER_BACKEND", f"s3://acme-state{query}")
    with pytest.raises(StepFailed, match=r"does not name its region, .*='s3://acme-state\?region=…'"):
        ci_setup.backend()


def test_no_file_names_a_bucket_without_its_region() -> None:
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if not name.startswith("tests/") and name.endswith(
            (".md", ".py", ".yml", ".yaml", ".sh", "Makefile")
        ):
            for found in re.findall(r"s3://[^\s'\"`]*", (ROOT / name).read_text()):
                assert re.fullmatch(r"s3://[^?]+\?region=.+", found), f"{name}: {found}"


def test_what_has_to_be_set_on_github_is_said() -> None:
    said = ci_setup.on_github("s3://acme-state?region=eu-west-1", ["dev", "prod"])
    assert "PULUMI_BACKEND_URL=s3://acme-state?region=eu-west-1 " in said
    assert "environments dev and prod have to be limited to the branch `main`" in said
    for text in (said, (ROOT / "docs/reviewing.md").read_text()):
        plain = " ".join(text.split())
        assert (
            "`main` has to be protected, so that nothing gets there except by a pull request that somebody"
            in plain
        )
        assert ".github/ included" in plain.replace("`.github/`", ".github/")


def test_without_a_repository_on_github_a_person_gets_the_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.setattr(ci_setup, "ROOT", tmp_path)
    monkeypatch.setattr(ci_setup, "stacks", lambda root: ["prod"])
    monkeypatch.setattr(ci_setup, "is_on_aws", lambda stack: True)
    monkeypatch.setattr(ci_setup, "aws", lambda *words: {"Account": ACCOUNT})
    monkeypatch.setenv("CHANGEOVER_BACKEND", "s3://acme-state?region=eu-west-1")
    (tmp_path / "Pulumi.prod.yaml").write_text("secretsprovider: awskms://alias/k?region=eu-west-1\n")
    ci_setup.setup()
    assert "no remote `origin`" in capsys.readouterr().out
    files = {each.name: json.loads(each.read_text()) for each in (tmp_path / ci_setup.FOLDER).iterdir()}
    assert files == {
        "person-policy.json": permissions.policy("changeover"),
        "person-state.json": ci.state("acme-state", "alias/k", ACCOUNT, changes=True),
    }


def test_the_files_are_policies(tmp_path: Path) -> None:
    ci_setup.write(HERE, ACCOUNT, "acme-state", "alias/changeover", ["dev", "prod"], tmp_path)
    written = {file.name: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    assert len(written) == 6
    assert written["apply-policy.json"] == permissions.policy("changeover")
    assert "acme-state" in json.dumps(written["review-state.json"])
    sizes = [
        len(json.dumps(written[f"{role}-{part}.json"]))
        for role in ("review", "apply")
        for part in ("policy", "state")
    ]
    assert all(size <= 10240 for size in sizes), "of a role's inline policies together"
    assert sizes[2] + sizes[3] <= 10240
