"""The review of real previews, as golden files. The events were recorded from Pulumi's engine 3.259.0 on a
deployed stack; debug lines and computed outputs were left out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from review.events import Change, Preview, PreviewFailed, parse
from review.text import render, warnings
from tools.review import Bound

GOLDEN = Path(__file__).parent / "golden" / "reviews"


def preview(name: str) -> Preview:
    return parse((GOLDEN / f"{name}.events").read_text().splitlines())


@pytest.mark.parametrize("name", ["nothing", "flip", "context", "stopped-edge"])
def test_a_review_reads_as_its_golden_file(name: str) -> None:
    text = render(preview(name), stack="rvsample", cutover="mode: hold\n")
    assert text == (GOLDEN / f"{name}.md").read_text()


def test_a_flip_says_so_first_and_replaces_the_gateway_alone() -> None:
    seen = preview("flip")
    first = render(seen, stack="prod", cutover="").splitlines()[0]
    assert first.startswith("Engine of `prod`: Ollama → vLLM by hold")
    assert "nothing is replaced but the gateway" in first
    assert "make rollback" not in first
    assert [change.name for change in seen.changes if change.op == "replaced"] == [
        "changeover-rvsample-gateway"
    ]
    assert warnings(seen, "prod") == []


def test_the_random_end_of_a_new_name_is_no_difference_between_two_reviews() -> None:
    raw = (GOLDEN / "flip.events").read_text()
    (gateway,) = [c for c in preview("flip").changes if c.op == "replaced"]
    assert gateway.after["name"] == "changeover-rvsample-gateway-NEW"
    ends = set(re.findall(r"changeover-rvsample-gateway-([0-9a-f]{7})", raw))
    (new,) = ends - {str(gateway.before["name"])[-7:]}
    assert parse(raw.replace(new, "0000000").splitlines()) == preview("flip")


def test_what_a_tired_reviewer_must_not_miss_comes_first() -> None:
    volume = Change(
        op="replaced",
        type="docker:index/volume:Volume",
        name="ollama-weights",
        before={},
        after={},
        paths=("name",),
    )
    secret = Change(
        op="changed",
        type="command:local:Command",
        name="edge-configuration",
        before={"stdin": "[secret]"},
        after={"stdin": "[secret]"},
        paths=("stdin",),
    )
    flip = preview("flip")
    seen = replace(flip, changes=(*flip.changes, volume, secret))
    said = warnings(seen, "prod")
    assert "`ollama-weights` (Volume) is replaced: name" in said
    assert "a secret of `edge-configuration` changes (stdin)" in said
    assert any("a flip replaces no instance and no volume" in each for each in said)
    assert render(seen, stack="prod", cutover="").index("Look at this first") < 500


def test_a_failed_preview_is_no_review() -> None:
    line = '{"diagnosticEvent": {"severity": "error", "message": "no such setting", "prefix": "error: "}}'
    with pytest.raises(PreviewFailed, match="no such setting"):
        parse([line])


def test_a_stale_review_says_what_differs() -> None:
    bound = Bound(stack="dev", commit="a", state="1", rendered="r", review="v")
    assert bound.differences(bound) == []
    (said,) = bound.differences(replace(bound, state="2"))
    assert "an update ran in between" in said
