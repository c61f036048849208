"""What the load calls good, and what the bench tells of it."""

from bench.flip import different
from bench.flips import inside, record, summary
from tests.support.load import Outcome, bad


def outcome(
    began: float, took: float, *, streamed: bool = False, content: str = "a b", aborted: bool = False
) -> Outcome:
    return Outcome(began, took, streamed, None, 8, content, aborted)


def test_a_stream_with_another_text_than_every_whole_answer_is_cut() -> None:
    good = [outcome(0, 1), outcome(0, 1, streamed=True)]
    assert bad(good) == []
    (lost,) = bad([*good, outcome(1, 1, streamed=True, content="a")])
    assert lost.cut


def test_an_input_that_the_way_back_left_otherwise_is_found_and_so_is_a_resource_too_many_or_few() -> None:
    before = {"same": {"a": 1}, "other": {"a": 1}, "gone": {}, "component": None}
    now = {"same": {"a": 1}, "other": {"a": 2}, "new": {}, "component": None}
    assert different(before, now) == ["gone", "new", "other"]
    assert different(before, before) == []


def test_a_flip_tells_its_longest_gap_and_who_was_inside() -> None:
    outcomes = [outcome(9, 0.5), outcome(10.5, 5), outcome(16, 0.5)]
    flip = record("hold", "vllm", outcomes, texts=outcomes, began=10, ended=15, hold=4.0, ours=2.0)
    assert flip["gap"] == 6.0
    assert [each[0] for each in inside(flip)] == [0.5]


def test_three_hundredths_of_a_hundred_requests_may_have_been_lost_unseen() -> None:
    outcomes = [outcome(n, 0.5) for n in range(100)]
    row = summary("hold", [record("hold", "vllm", outcomes, texts=outcomes, began=10, ended=15)])
    assert row[1:7] == [1, 100, 0, 0, 0, "3.0000 %"]
    outcomes[3].problem = "cut: no end"
    row = summary("hold", [record("hold", "vllm", outcomes, texts=outcomes, began=10, ended=15)])
    assert row[3:7] == [0, 0, 1, "-"]


def test_what_its_client_hung_up_on_is_neither_lost_nor_an_answer() -> None:
    outcomes = [outcome(n, 0.5) for n in range(10)]
    outcomes += [outcome(10, 60, streamed=True, content="a", aborted=True), outcome(11, 0.1, aborted=True)]
    assert bad(outcomes) == []
    flip = record("hold", "vllm", outcomes, texts=outcomes, began=5, ended=80)
    assert summary("hold", [flip])[1:7] == [1, 12, 2, 0, 0, "30.0000 %"]
    assert flip["gap"] == 1.0, "60 s without an answer would be no gap of ours"


def test_an_error_before_the_client_hung_up_is_lost() -> None:
    refused = outcome(1, 0.1)
    refused.problem = "InternalServerError: 503"
    assert bad([outcome(0, 1), refused]) == [refused]
