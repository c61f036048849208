"""Whoever has the rights that the guide names, and no others, deploys a stack on a real cluster."""

import json
from collections.abc import Iterator

import pytest

from common import ROOT
from components.kubernetes import rights
from stacks.kubernetes_target import KINDS
from tests.support.cluster.cluster import NAMESPACE, wait
from tests.support.cluster.project import ClusterProject, on_cluster
from tests.support.project import CommandFailed

pytestmark = [pytest.mark.engine, pytest.mark.long]

NAMESPACED = ("--namespace", NAMESPACE)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProject]:
    with on_cluster(tmp_path_factory.mktemp("project"), "rights", as_deployer=True) as project:
        yield project


def test_the_first_update_and_a_flip_need_no_other_rights(project: ClusterProject) -> None:
    with pytest.raises(RuntimeError, match=": no\n"):
        may = ("auth", "can-i", "create", "pods")
        project.cluster.kubectl(*NAMESPACED, *may, f"--as=system:serviceaccount:{NAMESPACE}:{rights.ROLE}")
    assert list(project.serving().values()) == [3]
    for engine in ("vllm", "ollama"):
        project.configure(engine=engine)
        project.up()
        ((serves, count),) = project.serving().items()
        assert serves.startswith(engine) and count == 3 and project.changes() == {}


def test_a_right_that_is_taken_away_is_named_before_anything_is_changed(project: ClusterProject) -> None:
    role, _ = rights.roles()
    (at,) = (index for index, rule in enumerate(role["rules"]) if "endpoints" in rule["resources"])
    patch = json.dumps([{"op": "remove", "path": f"/rules/{at}"}])
    project.cluster.kubectl(*NAMESPACED, "patch", "role", rights.ROLE, "--type=json", "--patch", patch)
    wait(lambda: "is lacking: list, watch endpoints. Nothing was changed." in refused(project), 60, "refused")
    project.cluster.kubectl(*NAMESPACED, "replace", "--filename", str(ROOT / rights.FILE))
    wait(lambda: refused(project) == "", 60, "it is not refused any more")


def refused(project: ClusterProject) -> str:
    """What a preview says that fails; empty: it does not."""
    try:
        project.pulumi("preview")
    except CommandFailed as error:
        return str(error)
    return ""


def test_a_stack_is_removed_with_no_other_rights(project: ClusterProject) -> None:
    project.pulumi("destroy", "--yes", "--skip-preview")
    wait(lambda: not left(project), 120, "nothing is left")


def left(project: ClusterProject) -> set[str]:
    """The kinds of what there is of the stack."""
    return {each["kind"] for each in project.cluster.get(KINDS, "--selector", project.mine)["items"]}
