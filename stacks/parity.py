"""What `requireParity` demands of the last comparison of both engines, which is a committed file."""

from pathlib import Path

from parity.table import problem, read
from stacks.blueprint import Blueprint
from stacks.settings import PROJECT, RENDERED


def parity_problem(blueprint: Blueprint, root: Path) -> str:
    """What is wrong with `rendered/<stack>/parity.json` for these settings, and what to type; or nothing.

    Without a standby there is nothing to compare, and nothing to flip to.
    """
    settings = blueprint.settings
    if not settings.standby:
        return ""
    file = root / RENDERED / settings.stack / "parity.json"
    try:
        content = read(file.read_text()) if file.exists() else None
    except ValueError as error:
        return f"{file.relative_to(root)} can't be read: {error}. Run: make parity STACK={settings.stack}"
    engines = {str(spec.kind): spec.name for spec in blueprint.specs}
    accepted, able = settings.accepted_differences, settings.model.able
    return problem(content, engines, accepted, settings.stack, able=able)


def no_flip(blueprint: Blueprint, root: Path) -> str:
    """Why `requireParity` lets this stack's engine not change to the other one; or nothing.

    Only the switch knows which one serves, so it is the switch that refuses. Everything else may change.
    """
    if not blueprint.settings.require_parity or not (said := parity_problem(blueprint, root)):
        return ""
    return (
        f"{PROJECT}:requireParity: {said}. To allow the change anyway: pulumi config set requireParity false"
    )
