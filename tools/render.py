"""`make render`: what a reviewer reads without credentials, written to `rendered/<stack>/`."""

import argparse
import sys
from pathlib import Path

from common import ROOT, write_whole
from components.aws import permissions
from components.kubernetes import objects, rights
from measure import report
from parity import table
from stacks import cluster
from stacks.blueprint import Blueprint, blueprint_of
from stacks.parity import no_flip, parity_problem
from stacks.settings import PROJECT, RENDERED, SettingsError, from_files, stacks
from tools.settings_table import PAGE, with_table

MEASURED = (*table.FILES, *report.FILES)
"""What is beside the rendered files and follows from a run, not from the settings."""
POLICIES = {
    "rendered/deployer-policy.json": permissions.policy,
    "rendered/review-policy.json": permissions.review_policy,
}
"""What whoever deploys on AWS must be allowed."""


def allowed() -> dict[str, str]:
    """The files with what whoever deploys on AWS, or on a cluster, must be allowed, by name."""
    policies = {name: permissions.document(of(PROJECT)) for name, of in POLICIES.items()}
    return {**policies, rights.FILE: objects.render(rights.roles())}


def files(blueprint: Blueprint) -> dict[str, str]:
    """The rendered files of one stack by name."""
    specs = sorted(blueprint.specs, key=lambda spec: spec.kind)
    return {
        "routing.toml": blueprint.routing,
        **({"tensorzero.toml": blueprint.gateway_config} if blueprint.gateway_config is not None else {}),
        # on a cluster there is no edge: its Services are
        **(
            {"objects.yaml": cluster.rendered(blueprint)}
            if blueprint.settings.kubernetes
            else {"Caddyfile": blueprint.edge_caddyfile(blueprint.known_name)}
        ),
        "cutover.txt": "\n".join([*blueprint.lines, ""]),
        **{f"monitor-{Path(path).name}": text for path, text in blueprint.monitor_files.items()},
        **{
            f"{spec.kind}.txt": (
                f"{spec.name}\nimage: {spec.image.name} {spec.image.version}\n"
                f"weights: {spec.weights.source}\n\n{spec.command_line}\n"
            )
            for spec in specs
        },
    }


def write(root: Path, stack: str) -> None:
    """Write the rendered files of `stack` and remove those that no longer belong to it."""
    folder = root / RENDERED / stack
    folder.mkdir(parents=True, exist_ok=True)
    rendered = files(blueprint_of(from_files(stack, root)))
    for name, text in rendered.items():
        write_whole(folder / name, text)
    for file in folder.iterdir():
        if file.name not in (*rendered, *MEASURED):
            file.unlink()


def written(root: Path, stack: str) -> dict[str, str]:
    """The rendered files of `stack` as they are in its folder, by name."""
    folder = root / RENDERED / stack
    there = folder.iterdir() if folder.exists() else ()
    return {file.name: file.read_text() for file in there if file.name not in MEASURED}


def twins(root: Path, stack: str) -> dict[str, list[str]]:
    """Which rendered files of `stack` another one has as they are, by that: the first before `stack`, by the
    alphabet."""
    others = {name: written(root, name) for name in sorted(stacks(root)) if name < stack}
    found: dict[str, list[str]] = {}
    for file, text in sorted(written(root, stack).items()):
        if twin := next((name for name, its in others.items() if its.get(file) == text), ""):
            found.setdefault(twin, []).append(file)
    return found


def stale(root: Path, stack: str) -> list[str]:
    """The names of rendered files of `stack` that differ from what its settings give."""
    rendered, there = files(blueprint_of(from_files(stack, root))), written(root, stack)
    return sorted(name for name in rendered.keys() | there.keys() if rendered.get(name) != there.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    check = parser.parse_args().check
    page = ROOT / PAGE
    text = with_table(page.read_text(), ROOT)
    if not check:
        write_whole(page, text)
    elif text != page.read_text():
        sys.exit(f"the table of settings in {PAGE} is stale. Run: make render")
    for name, text in allowed().items():
        if not check:
            (ROOT / name).parent.mkdir(exist_ok=True)
            write_whole(ROOT / name, text)
        elif text != (ROOT / name).read_text():
            sys.exit(f"{name} is stale. Run: make render")
    try:
        for stack in stacks(ROOT):
            if not check:
                write(ROOT, stack)
            elif names := stale(ROOT, stack):
                sys.exit(f"rendered/{stack}/ is stale: {', '.join(names)}. Run: make render")
            blueprint = blueprint_of(from_files(stack, ROOT))
            there = (ROOT / RENDERED / stack / table.FILES[0]).exists()
            if said := no_flip(blueprint, ROOT) or (parity_problem(blueprint, ROOT) if there else ""):
                print(f"remark: {said}")
    except SettingsError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
