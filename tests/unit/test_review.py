"""The review of real previews, as golden files, and what follows from them.

`tests/support/reviews.py` recorded them from Pulumi's engine on a deployed stack.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from common import StepFailed
from components.facts import Foreseen
from review.changes import moves
from review.differences import LONGEST_FULL
from review.drift import MAIL, drift, lasting, unconfirmed
from review.events import Preview, PreviewFailed, ResourceChange, parse
from review.markdown import render
from review.sentence import sentence
from review.warnings import warnings
from tests.support.reviews import seen_in
from tools import environment
from tools.review import Bound, events_of

GOLDEN = Path(__file__).parent / "golden" / "reviews"
NAMES = sorted(file.stem for file in GOLDEN.glob("*.events"))


def raw(name: str) -> list[str]:
    return (GOLDEN / f"{name}.events").read_text().splitlines()


@cache
def preview(name: str) -> Preview:
    return seen_in(raw(name))


def test_there_are_golden_reviews_of_twenty_changes() -> None:
    assert len(NAMES) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_a_review_reads_as_its_golden_file(name: str) -> None:
    assert render(preview(name)) == (GOLDEN / f"{name}.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_no_review_shows_a_secret_or_is_too_long_for_a_comment(name: str) -> None:
    text = (GOLDEN / f"{name}.md").read_text()
    assert "key-0123456789" not in (GOLDEN / f"{name}.events").read_text()
    assert len(text) < 65_000


def test_a_flip_says_so_first_and_replaces_the_gateway_alone() -> None:
    seen = preview("flip")
    assert re.fullmatch(
        r"Engine of `reviewed`: Ollama → vLLM by hold, requests wait about \d+ s, none is expected to be "
        r"lost; nothing is replaced but the gateway; back with `make rollback STACK=reviewed`",
        sentence(seen),
    )
    replaced = [change.name for change in seen.changes if change.op == "replaced"]
    assert replaced == ["changeover-reviewed-gateway"]
    assert warnings(seen) == []
    assert drift(seen) == []


def test_a_flip_to_an_engine_that_finds_no_calls_of_tools_says_so_in_the_first_lines() -> None:
    said = "tools: only ollama recognises this model's tool calls; with vllm they arrive as text"
    for name, warned in (("flip", True), ("context", False)):
        seen = preview(name)
        assert (said in warnings(replace(seen, foreseen=Foreseen(tools=said)))) == warned
    assert not any("tools" in line for line in warnings(preview("flip")))


def test_a_flip_by_overlap_lets_nobody_wait() -> None:
    assert "by overlap, no request waits" in sentence(preview("flip-by-overlap"))


def moved(name: str, before: str, after: str, **config: str) -> Preview:
    """A recorded preview by overlap, with these sums of memory in its first phase's step."""

    def step(change: ResourceChange) -> ResourceChange:
        if change.name != "prepare-step":
            return change
        old, new = (
            {**side, "environment": {**side["environment"], "MEMORY": said}}
            for side, said in ((change.before, before), (change.after, after))
        )
        return replace(change, before=old, after=new)

    seen = preview(name)
    return replace(
        seen,
        changes=tuple(step(change) for change in seen.changes),
        outputs_after={**seen.outputs_after, "cutover": "overlap"},
        foreseen=Foreseen(same_waits={"ollama": 21.4}),
        config={**seen.config, **config},
    )


def test_no_overlap_is_promised_where_what_serves_and_what_is_to_serve_do_not_fit_at_once() -> None:
    big, small = (
        "GPU 7.36 of 14.56 GiB, RAM 3.00 of unknown GiB",
        "GPU 7.20 of 14.56 GiB, RAM 3.00 of 14.00 GiB",
    )
    assert "by hold, requests wait about 21 s, none is expected to be lost" in sentence(
        moved("context", big, big)
    )
    assert "by overlap, no request waits" in sentence(moved("context", big, small))
    assert "by overlap, no request waits" in sentence(moved("context", "", big)), "it was not said before"
    assert "by hold, requests wait meanwhile" in sentence(moved("flip", big, big))
    assert "by hold" in sentence(moved("flip", "RAM 2.40 of 8.00 GiB", "RAM 6.00 of 8.00 GiB"))
    asked = sentence(moved("context", big, big, **{"changeover:cutover": "overlap"}))
    assert "which the switch refuses" in asked and "by overlap, nobody" not in asked


def test_another_context_is_a_move_of_the_same_engine() -> None:
    seen = preview("context")
    assert moves(seen)
    assert sentence(seen).startswith(
        "Engine of `reviewed`: Ollama stays and moves to another container by hold"
    )
    told = "```diff\n-OLLAMA_CONTEXT_LENGTH=1024\n+OLLAMA_CONTEXT_LENGTH=768\n```"
    assert f"What Ollama is started with:\n\n{told}" in render(seen)


def test_no_lost_request_is_promised_where_requests_are_refused() -> None:
    for name in ("network", "port", "latest-image", "edge-gone"):
        assert "none is expected to be lost" not in sentence(preview(name))
    flip = preview("flip")
    both = replace(flip, changes=(*flip.changes, *preview("port").changes))
    assert "none is expected to be lost" in sentence(flip)
    assert "none is expected to be lost" not in sentence(both)


def test_a_model_that_clients_must_ask_for_by_another_name_is_said_and_no_lost_request_is_promised() -> None:
    seen = preview("context")
    renamed = replace(seen, outputs_after={**seen.outputs_after, "model": "large"})
    expected = (
        "clients have to ask for the model `large` instead of `tiny`, and get 404 until they do (`pulumi "
        "config set name tiny` keeps the name)"
    )
    assert expected in sentence(renamed)
    assert expected in warnings(renamed)
    assert "none is expected to be lost" in sentence(seen)
    assert "none is expected to be lost" not in sentence(renamed)


def test_another_model_under_the_same_name_is_said_and_costs_no_request() -> None:
    def weighed(change: ResourceChange, folder: str) -> ResourceChange:
        def side(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            label = {"label": "changeover.weights", "value": folder}
            return {**inputs, "labels": [*(inputs.get("labels") or []), label]}

        return replace(change, before=side(change.before), after=side(change.after))

    seen = preview("context")
    folders = {"deleted": "small-0a1b2c3d", "created": "large-1.5-4e5f6a7b"}
    changes = [weighed(each, folders[each.op]) if each.op in folders else each for each in seen.changes]
    said = sentence(replace(seen, changes=tuple(changes)))
    assert "the model changes, small → large-1.5" in said
    assert "none is expected to be lost" in said
    assert "the model changes" not in sentence(seen)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edge-stopped", "the container `changeover-reviewed-edge` is stopped"),
        ("edge-gone", "the container `changeover-reviewed-edge` is gone"),
        ("gateway-gone", "the container `changeover-reviewed-gateway` is gone"),
        ("switch-stopped", "the container `changeover-reviewed-switch` is stopped"),
        ("switch-stopped", "the switch does not answer"),
        ("edge-edited", "the edge's configuration was edited in place"),
        ("gateway-edited", "the TOML in `changeover-reviewed-gateway-"),
        ("engine-by-hand", "the active engine: `changeover-reviewed-vllm-"),
    ],
)
def test_what_was_changed_behind_pulumis_back_is_named(name: str, expected: str) -> None:
    assert any(said.startswith(expected) for said in drift(preview(name))), drift(preview(name))


def test_a_limit_that_docker_takes_away_for_no_update_is_not_promised_to_be_put_right() -> None:
    seen = preview("memory-limit")
    assert drift(seen) == []
    (said,) = lasting(seen)
    assert "memory is 900 and was 0" in said
    assert "remove the container and let an update create it again" in said
    assert "that no update puts right" in sentence(seen)


@pytest.mark.parametrize("engine", ["ollama-3b59111b", "vllm-2ef78ad2"])
def test_an_engine_whose_limit_was_set_by_hand_gets_no_other_container(engine: str) -> None:
    seen = preview("memory-limit")
    name = f"changeover-reviewed-{engine}"
    (inputs,) = [each.inputs for each in seen.resources if each.name == name]
    (change,), (drifted,) = seen.changes, seen.drift
    of_engine = replace(
        seen,
        changes=(replace(change, name=name, before=inputs, after=inputs),),
        drift=(replace(drifted, name=name),),
    )
    expected = "1 thing changed behind Pulumi's back that no update puts right"
    assert sentence(of_engine) == f"`reviewed`: {expected}"
    assert f"- `{name}` (Container): memory is 900 and was 0" in render(of_engine)


def test_what_the_program_warns_of_comes_first() -> None:
    line = json.dumps({"diagnosticEvent": {"severity": "warning", "message": "this replaces the instance"}})
    assert "- this replaces the instance\n" in render(seen_in([*raw("flip"), line]))


def test_an_update_that_did_not_end_is_taken_back_and_says_so() -> None:
    said = sentence(preview("after-a-failure-before-the-end"))
    assert (
        "the change that an update left unfinished is undone; if Ollama does not serve already, it is "
        "brought back by " in said
    )
    assert "requests wait about 17 s" in said


def refreshed(kind: str, path: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    event = {
        "op": "refresh",
        "type": kind,
        "urn": "urn:pulumi:dev::x::y::endpoint",
        "old": {"outputs": old},
        "new": {"outputs": new},
        "detailedDiff": {path: {}},
    }
    return lasting(parse([json.dumps({"resOutputsEvent": {"metadata": event}})]))


RULE = {"protocol": "tcp", "fromPort": 443, "toPort": 443, "cidrBlocks": ["10.0.0.0/8", "192.0.2.0/24"]}


@pytest.mark.parametrize(
    ("path", "live", "expected"),
    [
        (
            "ingress[1]",
            [RULE, {**RULE, "fromPort": 22, "toPort": 22, "cidrBlocks": ["0.0.0.0/0"]}],
            "port 22 is open to 0.0.0.0/0 (everybody)",
        ),
        (
            "ingress[0].cidrBlocks[1]",
            [{**RULE, "cidrBlocks": ["10.0.0.0/8"]}],
            "port 443 is closed to 192.0.2.0/24",
        ),
        (
            "ingress",
            [RULE, {**RULE, "protocol": "udp", "fromPort": 1, "toPort": 9, "cidrBlocks": ["10.0.0.0/8"]}],
            "every port from 1 to 9 of udp is open to 10.0.0.0/8",
        ),
        (
            "ingress[1]",
            [RULE, {"protocol": "-1", "fromPort": 0, "toPort": 0, "self": True}],
            "every port is open to its own members",
        ),
    ],
)
def test_a_port_that_was_opened_or_closed_is_named_with_the_network(
    path: str, live: list[dict[str, Any]], expected: str
) -> None:
    seen = refreshed("aws:ec2/securityGroup:SecurityGroup", path, {"ingress": [RULE]}, {"ingress": live})
    assert seen == [f"`endpoint` (SecurityGroup): {expected}"]


def test_where_the_host_may_send_is_named_as_well() -> None:
    seen = refreshed("aws:ec2/securityGroup:SecurityGroup", "egress[0]", {"egress": [RULE]}, {"egress": []})
    assert "port 443 is no longer allowed to reach 10.0.0.0/8; " in seen[0]


def test_a_tag_that_was_changed_is_named_with_both_values() -> None:
    seen = refreshed("aws:ebs/volume:Volume", "tags.Name", {"tags": {"Name": "a"}}, {"tags": {"Name": "b"}})
    assert seen == ["`endpoint` (Volume): tags.Name is b and was a"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gateway-image", "an image pin changes: changeover-offline/tensorzero:2026.6.0 → "),
        ("latest-image", "policy broken, so `make apply` refuses it: images are pinned"),
        ("engine-port", "policy broken, so `make apply` refuses it: only the edge publishes a port"),
        ("weights-renamed", "`ollama-weights` (Volume) is no longer managed by Pulumi"),
        ("key-rotated", "an API key changes, and the old one is refused"),
        ("key-rotated-and-hold-budget", "an API key changes, and the old one is refused"),
        ("tenant-added", "tenant `other` gets an API key"),
        (
            "first-key",
            "the endpoint gets its first API key (`acme`), and requests without a key are refused from",
        ),
        ("last-key-removed", "the last API key is removed, and whoever reaches the endpoint can use it"),
        ("port", "clients have to use the address `http://127.0.0.1:"),
        ("network", "the endpoint is down meanwhile, since `network` is replaced"),
    ],
)
def test_what_a_tired_reviewer_must_not_miss_comes_first(name: str, expected: str) -> None:
    assert any(said.startswith(expected) for said in warnings(preview(name))), warnings(preview(name))
    text = render(preview(name))
    assert text.index("Look at this first") < text.index("Price: ")


@pytest.mark.parametrize("name", ["flip", "context"])
def test_a_change_of_the_engine_that_touches_a_volume_breaks_a_policy(name: str) -> None:
    volume = ResourceChange(
        op="replaced",
        type="docker:index/volume:Volume",
        name="ollama-weights",
        before={},
        after={},
        paths=("name",),
    )
    change = preview(name)
    seen = replace(change, changes=(*change.changes, volume))
    assert any("a flip replaces no instance and no volume" in each for each in warnings(seen))
    assert "volume `ollama-weights` is replaced" in sentence(seen)


def test_a_volume_that_is_replaced_under_the_same_engine_breaks_none() -> None:
    assert not [each for each in warnings(preview("weights-renamed")) if "a flip replaces" in each]


def test_what_is_fetched_before_anything_serves_is_said_with_how_long_it_takes() -> None:
    seen = preview("first-deployment")
    assert "first fetch" not in render(seen), "its images are built here"
    said = "first fetch: 9 min = 6.5 GB of images at 12.5 MB/s (estimate)"
    text = render(replace(seen, notes=(*seen.notes, said)))
    assert f"\n\nBefore anything serves: {said}.\n\nPrice: " in text


def test_the_price_is_said_before_and_after() -> None:
    flip = preview("flip")
    seen = replace(
        flip,
        outputs_before={**flip.outputs_before, "cost": "$0.546 an hour"},
        outputs_after={**flip.outputs_after, "cost": "$0.772 an hour"},
    )
    assert "Price: $0.546 an hour → $0.772 an hour." in render(seen)
    assert "Price: $0.772 an hour, unchanged." in render(replace(seen, outputs_before=seen.outputs_after))


def test_the_random_end_of_a_new_name_is_no_difference_between_two_reviews() -> None:
    text = "\n".join(raw("flip"))
    (gateway,) = [change for change in preview("flip").changes if change.op == "replaced"]
    assert gateway.after["name"] == "changeover-reviewed-gateway-NEW"
    ends = set(re.findall(r"changeover-reviewed-gateway-([0-9a-f]{7})", text))
    (new,) = ends - {str(gateway.before["name"])[-7:]}
    assert seen_in(text.replace(new, "0000000").splitlines()) == preview("flip")


@pytest.mark.parametrize("name", NAMES)
def test_the_order_in_which_the_engine_comes_to_things_is_no_difference_between_two_reviews(
    name: str,
) -> None:
    events = [json.loads(line) for line in raw(name)]
    of_one: dict[str, list[str]] = {}
    for event in events:
        if "resourcePreEvent" in event:
            of_one.setdefault(event["resourcePreEvent"]["metadata"]["urn"], []).append(json.dumps(event))
    others = [json.dumps(event) for event in events if "resourcePreEvent" not in event]
    stack = next((each for urn, each in of_one.items() if "pulumi:pulumi:Stack" in urn), [])
    turned = [line for each in reversed(of_one.values()) if each is not stack for line in each]
    assert render(seen_in([*stack, *turned, *others])) == render(preview(name))


def test_files_that_another_stack_has_as_they_are_are_named_with_it() -> None:
    text = render(preview("flip"), twins={"dev": ["Caddyfile", "vllm.txt"], "prod": ["cutover.txt"]})
    assert "as those of `dev`, and it is enough to read them once: `Caddyfile`, `vllm.txt`.\n" in text
    assert "as those of `prod`, and it is enough to read them once: `cutover.txt`.\n" in text


def test_a_review_that_is_too_long_is_cut_and_says_where_the_rest_is() -> None:
    seen = preview("flip")
    long = ResourceChange(
        op="changed",
        type="x",
        name="y",
        before={"a": "1\n" * LONGEST_FULL},
        after={"a": "2\n" * LONGEST_FULL},
        paths=("a",),
    )
    text = render(replace(seen, changes=(long,)))
    assert len(text) < LONGEST_FULL + 5_000
    assert "… and more: make review STACK=reviewed" in text


def changed(name: str, before: dict[str, str], after: dict[str, str]) -> ResourceChange:
    """A step of this name whose environment changes."""
    return ResourceChange(
        op="changed",
        type="command:local:Command",
        name=name,
        before={"environment": before},
        after={"environment": after},
        paths=("environment",),
    )


def test_keys_that_were_edited_on_the_host_are_named() -> None:
    edited = changed("keys-step", {"SEEN": "as declared"}, {"SEEN": "edited in place 0a1b"})
    assert drift(replace(preview("nothing"), changes=(edited,))) == [
        "the API keys on the host were edited in place"
    ]
    assert "the proxies get the API keys again" in sentence(replace(preview("nothing"), changes=(edited,)))


def mail(op: str, pending: bool, now: bool | None = None) -> ResourceChange:
    """What a refresh finds of the subscription of the alarms' mail."""
    told = {"endpoint": "ops@example.com", "pendingConfirmation": pending}
    return ResourceChange(
        op=op,
        type=MAIL,
        name="changeover-dev-alarms-mail",
        before=told,
        after={} if now is None else {**told, "pendingConfirmation": now},
        paths=() if now is None else ("pendingConfirmation",),
    )


def test_a_mail_that_nobody_confirmed_is_said_as_that_and_is_no_drift() -> None:
    confirmed = replace(preview("nothing"), drift=(mail("changed", True, False),))
    assert (drift(confirmed), lasting(confirmed), unconfirmed(confirmed)) == ([], [], [])
    gone = mail("deleted", True)
    forgotten = replace(preview("nothing"), drift=(gone,), changes=(replace(gone, op="created"),))
    assert (drift(forgotten), lasting(forgotten)) == ([], [])
    (said,) = unconfirmed(forgotten)
    assert "nobody has confirmed the subscription of ops@example.com to the alarms" in said
    taken = mail("deleted", False)
    away = replace(preview("nothing"), drift=(taken,), changes=(replace(taken, op="created"),))
    assert drift(away) == ["`changeover-dev-alarms-mail` (TopicSubscription) is gone"]
    assert unconfirmed(away) == []


def test_a_flip_without_a_gateway_replaces_nothing_and_shows_the_line_that_changes() -> None:
    seen = preview("flip")
    routing = '[models.tiny]\nengines = ["{}", "{}"]\n'
    without = replace(
        seen,
        changes=tuple(each for each in seen.changes if not each.name.endswith("-gateway")),
        outputs_before={"engine": "ollama", "routing": routing.format("ollama-1", "vllm-2")},
        outputs_after={"engine": "vllm", "cutover": "hold", "routing": routing.format("vllm-2", "ollama-1")},
    )
    assert "; nothing is replaced; back with" in sentence(without)
    diff = '-engines = ["ollama-1", "vllm-2"]\n+engines = ["vllm-2", "ollama-1"]'
    assert f"The proxies' routing:\n\n```diff\n [models.tiny]\n{diff}\n```" in render(without)


def test_another_gateway_setting_is_said() -> None:
    seen = preview("nothing")
    step = changed("prepare-step", {}, {})
    outputs = {"engine": "ollama", "gateway_config": "x"}
    without = {"engine": "ollama"}
    gone = replace(seen, changes=(step,), outputs_before=outputs, outputs_after=without)
    come = replace(seen, changes=(step,), outputs_before=without, outputs_after=outputs)
    assert "the gateway is removed, and the proxies ask the engine directly; " in sentence(gone)
    assert "a gateway is added, and the proxies ask it which engine is to answer; " in sentence(come)


def test_the_edges_caddyfile_is_shown_by_the_lines_that_change() -> None:
    reloaded = changed(
        "edge-configuration",
        {"CADDYFILE": "http://:8080 {\n\trespond 200\n}\n"},
        {"CADDYFILE": "http://:8080 {\n\trespond 204\n}\n"},
    )
    seen = replace(preview("nothing"), changes=(reloaded,))
    assert "the edge loads a new configuration, which can cut a request" in sentence(seen)
    diff = " http://:8080 {\n-\trespond 200\n+\trespond 204\n }"
    assert f"The edge's Caddyfile:\n\n```diff\n{diff}\n```" in render(seen)


def container(role: str, *, new_first: bool) -> ResourceChange:
    labels = [{"label": "changeover.role", "value": role}]
    return ResourceChange(
        op="replaced",
        type="docker:index/container:Container",
        name=f"changeover-reviewed-{role}",
        before={"labels": labels},
        after={"labels": labels},
        paths=("labels",),
        new_first=new_first,
    )


def test_a_new_proxy_is_said_and_cuts_nobody_unless_the_old_one_goes_first() -> None:
    seen = replace(preview("nothing"), outputs_before={"engine": "ollama", "routing": "x"})
    taken_over = replace(seen, changes=(container("proxy", new_first=True),))
    assert "the proxy is replaced, and the old one finishes what it has begun" in sentence(taken_over)
    drifted = replace(container("proxy", new_first=True), op="deleted")
    gone = replace(seen, changes=(replace(drifted, op="created"),), drift=(drifted,))
    assert "the proxy is created again, and until then requests wait" in sentence(gone)
    upgraded = replace(gone, drift=(), outputs_before={"engine": "ollama"})
    assert "a proxy is added, which every request goes through from then on" in sentence(upgraded)
    cut = replace(seen, changes=(container("proxy", new_first=False),))
    assert "the endpoint is down meanwhile, since `changeover-reviewed-proxy` is replaced" in sentence(cut)


def test_other_packages_of_the_proxy_are_no_data_that_is_lost() -> None:
    volume = ResourceChange(
        op="deleted",
        type="docker:index/volume:Volume",
        name="proxy-wheels-0a1b2c3d",
        before={"labels": [{"label": "changeover.role", "value": "wheels"}]},
        after={},
    )
    seen = preview("flip")
    assert warnings(replace(seen, changes=(*seen.changes, volume))) == []
    data = replace(
        volume, name="proxy-log", before={"labels": [{"label": "changeover.role", "value": "log"}]}
    )
    assert len(warnings(replace(seen, changes=(*seen.changes, data)))) == 2


def test_a_failed_preview_is_no_review() -> None:
    line = json.dumps({"diagnosticEvent": {"severity": "error", "message": "no such setting"}})
    with pytest.raises(PreviewFailed, match="no such setting"):
        parse([line])


@pytest.mark.parametrize("result", ["succeeded", "failed"])
def test_a_plugin_that_ends_slowly_after_a_preview_does_not_fail_it(result: str) -> None:
    ended = json.dumps({"summaryEvent": {"result": result}})
    said = {"severity": "error", "message": "Detected that pulumi-resource-docker exited prematurely."}
    lines = [*raw("flip"), ended, json.dumps({"diagnosticEvent": said})]
    if result == "failed":
        with pytest.raises(PreviewFailed, match="the preview failed\nDetected"):
            parse(lines)
    else:
        assert seen_in(lines) == preview("flip")


def test_on_aws_a_fresh_checkout_says_why_its_first_preview_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text("config:\n  changeover:target: aws\n")
    cli = tmp_path / "pulumi"
    cli.write_text(
        '#!/bin/sh\ncase "$*" in *--refresh*) why="no such file: config";; *) why="no credentials";; esac\n'
        'echo "$why" >&2\nexit 255\n'
    )
    cli.chmod(0o755)
    monkeypatch.setattr(environment, "cli", lambda stack=None: cli)
    with pytest.raises(StepFailed, match=r"nothing was changed\.\nno credentials"):
        events_of("dev", root=tmp_path, env={})


def test_a_stale_review_says_what_differs_and_a_merge_of_the_same_tree_is_no_difference() -> None:
    bound = Bound(stack="dev", tree="a", state="1", rendered="r", review="v", plan="p", commit="c")
    assert bound.differences(replace(bound, commit="d")) == []
    (said,) = bound.differences(replace(bound, state="2"))
    assert "an update ran in between" in said
    (said,) = bound.differences(replace(bound, tree="b"))
    assert "something else was merged" in said
