"""What the switch's machine does in whole changes, against transcripts that a reader can follow."""

import pytest

from tests.support.transcripts import FOLDER, TRANSCRIPTS, Transcript


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda each: each.name)
def test_the_machine_does_what_its_transcript_says(transcript: Transcript) -> None:
    there = (FOLDER / f"{transcript.name}.txt").read_text()
    assert transcript.text == there, (
        "if that is meant: python -m tests.support.transcripts, and read the diff"
    )


def test_each_transcript_is_one_of_these() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == {each.name for each in TRANSCRIPTS}
