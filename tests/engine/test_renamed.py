"""`name` changed together with other settings, under load by the name before: nobody is refused.

The combinations are drawn by chance from what can be changed in one `pulumi up`, the same ones in each run.
"""

import json
import random
from collections.abc import Iterator

import pytest

from bench.stack import fast_project
from tests.support.load import LoadGenerator
from tests.support.project import Project

pytestmark = [pytest.mark.engine, pytest.mark.long]

CHOICES = {
    "engine": ("ollama", "vllm"),
    "context": (1024, 2048),
    "parallel": (2, 4),
    "gateway": ("tensorzero", "none"),
    "cutover": ("hold", "overlap"),
    "standby": (True, False),
}
NAMES = (
    "chat",
    "qwen2.5-coder:7b",
    "Qwen/Qwen2.5-Coder-7B-Instruct",
    "qwen/qwen2.5-coder-7b-instruct:latest",
    "hf.co/Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M",
    "name.5",
)
"""One for each round, in the forms that Ollama and Hugging Face have."""


def rounds() -> Iterator[dict[str, object]]:
    """Settings, each time with two to four that are others than before."""
    chance, now = random.Random(14), {key: values[0] for key, values in CHOICES.items()}
    for number, name in enumerate(NAMES):
        changed = chance.sample(sorted(CHOICES), chance.randint(2, 4))
        changed += [] if number else ["engine"]
        now |= {key: next(value for value in CHOICES[key] if value != now[key]) for key in set(changed)}
        yield {"name": name, **now}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with fast_project(tmp_path_factory.mktemp("project"), "renamed") as project:
        yield project


def test_a_name_that_changes_with_other_settings_leaves_nobody_behind(project: Project) -> None:
    before = project.settings_file.read_text()
    for settings in rounds():
        outputs = project.outputs()
        changed = {k: v for k, v in settings.items() if f"changeover:{k}: {v}" not in before}
        project.configure(**settings)
        with LoadGenerator(outputs["endpoint"], outputs["model"], clients=4) as load:
            load.wait_for_answers(10)
            project.up()
            load.wait_for_answers(10)
        assert not load.bad, f"{json.dumps(changed)}: {load.summary()}"
        now = project.outputs()
        assert now["model"] == settings["name"]
        with LoadGenerator(now["endpoint"], now["model"], clients=2) as load:
            load.wait_for_answers(12)
        assert not load.bad, load.summary()
        assert project.changes() == {}
