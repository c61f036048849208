"""Which stacks CI looks at."""

from pathlib import Path

import pytest

from tools.touched import stacks, touched


def test_dev_comes_before_prod_and_a_stack_on_someones_machine_is_left_out(tmp_path: Path) -> None:
    for name, target in (("prod", "aws"), ("dev", '"aws"'), ("local", "docker"), ("mine", "'docker'")):
        (tmp_path / f"Pulumi.{name}.yaml").write_text(f"config:\n  changeover:target: {target}\n")
    assert stacks(tmp_path) == ["dev", "prod"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["Pulumi.prod.yaml", "stacks/prod/tensorzero.toml"], ["prod"]),
        (["stacks/dev/cutover.txt"], ["dev"]),
        (["components/edge.py"], ["dev", "prod"]),
        (["stacks/settings.py"], ["dev", "prod"]),
        (["README.md", "tests/unit/test_touched.py", "Pulumi.local.yaml", "bench/flip.py"], []),
    ],
)
def test_a_stack_is_touched_by_its_own_files_and_by_the_program(
    changed: list[str], expected: list[str]
) -> None:
    assert touched(["dev", "prod"], changed) == expected
