"""How the tests are shared out between two workers of pytest-xdist (`--numprocesses 2 --dist loadgroup`)."""

import pytest


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay together, for the stack that they share; those of AWS have one network to share."""
    for item in items:
        file = item.path.stem
        item.add_marker(pytest.mark.xdist_group("aws" if file.startswith("test_aws_") else file))
