"""`make ci-setup`: writes the policies of CI's two roles for the repository that this checkout is of."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

from common import ROOT, StepFailed, main_guard, say
from components.aws import ci, permissions
from components.aws.ci import Repository
from stacks.aws_cli import AwsError, aws
from stacks.settings import PROJECT, stacks
from tools import environment
from tools.host import is_on_aws

FOLDER = Path(".changeover") / "ci"
"""Where the files go, below the project's folder: they are of one account, and in no repository."""
REMOTE = re.compile(r"(?:https://|ssh://git@|git@)github\.com[:/]([^/]+)/(.+?)(?:\.git)?/?")


def remote(url: str) -> tuple[str, str]:
    """Owner and name of a repository of GitHub. Raises StepFailed."""
    found = REMOTE.fullmatch(url.strip())
    if found is None:
        raise StepFailed(
            f"`git remote get-url origin` says {url.strip()!r}, which is not a repository on GitHub"
        )
    return found[1], found[2]


def ids(owner: str, name: str) -> tuple[int, int]:
    """The ids of owner and repository: OWNER_ID and REPOSITORY_ID, or what GitHub says. Raises StepFailed."""
    told = os.environ.get("OWNER_ID", ""), os.environ.get("REPOSITORY_ID", "")
    if any(told):
        if not all(re.fullmatch("[0-9]+", each) for each in told):
            raise StepFailed(
                f"OWNER_ID and REPOSITORY_ID are numbers, and both are needed: they are {told[0]!r} and "
                f"{told[1]!r}. Nothing was written"
            )
        return int(told[0]), int(told[1])
    question = ["api", f"repos/{owner}/{name}", "--jq", "[.owner.id, .id]"]
    how = (
        f"GitHub tells the ids of {owner}/{name}. Run: gh {' '.join(question[:2])} --jq '[.owner.id, .id]'. "
        "Then run: OWNER_ID=… REPOSITORY_ID=… make ci-setup"
    )
    if shutil.which("gh") is None:
        raise StepFailed(f"there is no `gh` command here. {how}")
    done = subprocess.run(["gh", *question], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"`gh {question[0]} {question[1]}` failed: {done.stderr.strip()}\n{how}")
    first, second = json.loads(done.stdout)
    return int(first), int(second)


def backend() -> str:
    """Where the state is. Raises StepFailed where that is no bucket, or one without its region."""
    where = os.environ.get(environment.BACKEND, "")
    parts = urlsplit(where)
    name = parts.netloc or "NAME"
    how = f"Run: export {environment.BACKEND}='s3://{name}?region=…', and then make ci-setup"
    if parts.scheme != "s3":
        raise StepFailed(f"CI needs a state in a bucket, which it can reach. {how}")
    if not parse_qs(parts.query).get("region"):
        # https://www.pulumi.com/docs/iac/concepts/state-and-backends/#aws-s3
        raise StepFailed(f"{where} does not name its region, so the profile's would be used. {how}")
    return where


def place(where: str) -> str:
    """The bucket of a state, with the folder in it where there is one."""
    parts = urlsplit(where)
    return f"{parts.netloc}{parts.path}".rstrip("/")


def key_alias(names: list[str], root: Path) -> str:
    """What the key is called that keeps the secrets of these stacks. Raises StepFailed."""
    for name in names:
        file = yaml.safe_load((root / f"Pulumi.{name}.yaml").read_text())
        found = re.fullmatch(r"awskms:///?(alias/[\w/-]+)\?.*", str(file.get("secretsprovider", "")))
        if found:
            return found[1]
    raise StepFailed(
        "no stack's secrets are encrypted with a key of AWS. Run: pulumi stack init prod "
        '--secrets-provider="awskms://alias/changeover?region=…"'
    )


def write(repository: Repository, account: str, where: str, key: str, names: list[str], folder: Path) -> None:
    """The policies as files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "review-trust.json": ci.trust(repository, ci.REVIEW, account),
        "review-policy.json": permissions.review_policy(PROJECT),
        "review-state.json": ci.state(where, key, account, changes=False),
        "apply-trust.json": ci.trust(repository, ci.apply_places(names), account),
        "apply-policy.json": permissions.policy(PROJECT),
        "apply-state.json": ci.state(where, key, account, changes=True),
    }
    for name, policy in files.items():
        (folder / name).write_text(permissions.document(policy))


def commands(folder: Path) -> str:
    """The commands that create the roles from these files. The deployer's policy lets CI change no role of
    these names."""
    lines = [
        f"aws iam create-open-id-connect-provider --url https://{ci.ISSUER} --client-id-list {ci.AUDIENCE}"
    ]
    for role in ("review", "apply"):
        name = f"ci-{PROJECT}-{role}"
        trusted = f"--assume-role-policy-document file://{folder}/{role}-trust.json"
        lines.append(f"aws iam create-role --role-name {name} {trusted}")
        lines += [
            f"aws iam put-role-policy --role-name {name} --policy-name {part} "
            f"--policy-document file://{folder}/{role}-{part}.json"
            for part in ("policy", "state")
        ]
    return "\n".join(lines)


def write_person(account: str, where: str, key: str, folder: Path) -> None:
    """The policies of a person's role, who deploys without CI."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "person-policy.json").write_text(permissions.document(permissions.policy(PROJECT)))
    state = ci.state(where, key, account, changes=True)
    (folder / "person-state.json").write_text(permissions.document(state))


def setup() -> None:
    """Find out whose repository and account this is, and write the files. Raises StepFailed.

    Without a repository on GitHub there is no CI: then they are those of a person.
    """
    names = [each for each in stacks(ROOT) if is_on_aws(each)]
    where, key = backend(), key_alias(names, ROOT)
    try:
        account = str(aws("us-east-1", "sts", "get-caller-identity")["Account"])
    except AwsError as error:
        raise StepFailed(str(error)) from None
    url = subprocess.run(
        ["git", "remote", "get-url", "origin"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if url.returncode != 0:
        write_person(account, place(where), key, ROOT / FOLDER)
        say(
            f"The policies of a person who deploys are in {FOLDER}/ (person-policy.json and "
            "person-state.json). This checkout has no remote `origin`, so there are none for CI. Run: git "
            "remote add origin …, and then this command again"
        )
        return
    owner, name = remote(url.stdout)
    owner_id, repository_id = ids(owner, name)
    repository = Repository(owner=owner, name=name, owner_id=owner_id, id=repository_id)
    write(repository, account, place(where), key, names, ROOT / FOLDER)
    say(
        f"The policies for {owner}/{name} (ids {owner_id} and {repository_id}) are in {FOLDER}/. "
        f"Whoever has the rights for it runs:\n{commands(FOLDER)}\n{on_github(where, names)}"
    )


def on_github(where: str, names: list[str]) -> str:
    """What has to be set on GitHub, in words."""
    return (
        f"GitHub needs the variables PULUMI_BACKEND_URL={where} and AWS_REGION, AWS_REVIEW_ROLE and "
        f"AWS_APPLY_ROLE. The environments {' and '.join(names)} have to be limited to the branch `main`: "
        "the second role trusts them by name. And `main` has to be protected, so that nothing gets there "
        "except by a pull request that somebody else has approved, changes in .github/ included. Who may "
        "push to it has both roles."
    )


if __name__ == "__main__":
    main_guard(setup)
