"""What a stack demands of its last comparison of both engines, from the committed file."""

from pathlib import Path

from parity.table import problem, read
from stacks.blueprint import Blueprint
from stacks.settings import PROJECT, SettingsError


def parity_problem(plan: Blueprint, root: Path) -> str:
    """What is wrong with `stacks/<stack>/parity.json` for these settings, and what to type; or nothing.

    Without a standby there is nothing to compare, and nothing to flip to.
    """
    settings = plan.settings
    if not settings.standby:
        return ""
    file = root / "stacks" / settings.stack / "parity.json"
    try:
        content = read(file.read_text()) if file.exists() else None
    except ValueError as error:
        return f"{file.relative_to(root)} can't be read: {error}. Type: make parity STACK={settings.stack}"
    engines = {str(spec.kind): spec.name for spec in plan.specs}
    return problem(content, engines, settings.accepted_differences, settings.stack)


def require_parity(plan: Blueprint, root: Path) -> None:
    """Raises SettingsError where `requireParity` is set and the committed table does not allow a change."""
    if plan.settings.require_parity and (said := parity_problem(plan, root)):
        off = "To go on without: pulumi config set requireParity false"
        raise SettingsError(f"{PROJECT}:requireParity: nothing was changed: {said}. {off}")
