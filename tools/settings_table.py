"""The table of settings in the documentation, made from the typed `config:` block of Pulumi.yaml."""

from pathlib import Path

from stacks.settings import declared

PAGE = "docs/settings.md"

BEGIN = "<!-- settings: made by `make render` from Pulumi.yaml -->"
ANY = "any"
"""Type of a setting that has several, which Pulumi can't say."""
END = "<!-- end of settings -->"


def table(root: Path) -> str:
    """The table as Markdown, one row for each setting in the order of Pulumi.yaml."""
    rows = ["| setting | type | default | what it is |", "|---|---|---|---|"]
    for key, entry in declared(root).items():
        default = entry.get("default", "needed")
        text = {True: "true", False: "false"}.get(default, default) if isinstance(default, bool) else default
        shown = "none" if text in ({}, [], "") else text
        rows.append(f"| `{key}` | {entry.get('type', ANY)} | {shown} | {entry['description']} |")
    return "\n".join(rows)


def with_table(page: str, root: Path) -> str:
    """The page's text with the table between its markers brought up to date."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(root)}\n{END}{after}"
