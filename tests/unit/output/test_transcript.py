"""The whole text of an execution, page by page."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kernelry.output.fold import Error, Output, Spill, Stream
from kernelry.output.transcript import Transcript


def spilled(folder: Path, text: str, chars: int = -1) -> Spill:
    (folder / "s.txt").write_text(text, encoding="utf-8")
    return Spill("s.txt", chars)


def test_pages_put_together_are_the_whole_text(tmp_path: Path) -> None:
    text = "".join(f"é{i}\n" for i in range(500))
    outputs: list[Output] = [
        Stream("stdout", "head\n"),
        spilled(tmp_path, text, chars=len(text)),
        Error("E", "v", ("trace",)),
    ]
    transcript = Transcript(outputs, tmp_path)
    pages = [transcript.read(i, 97).text for i in range(0, transcript.total, 97)]
    assert "".join(pages) == "head\n" + text + "trace\n"


def test_a_running_execution_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    transcript = Transcript([spilled(tmp_path, "abc")], tmp_path)
    assert transcript.read(1, 10).text == "bc"
    assert transcript.total == 3


def test_what_was_beyond_the_limit_is_counted_and_its_end_shown(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("0123", encoding="utf-8")
    spill = Spill("s.txt", chars=4, dropped=100, tails={"stdout": "89"})
    text = Transcript([spill], tmp_path).read(0, 1000).text
    assert text == "0123\n[... 98 characters beyond the limit were not kept ...]\n89"


def test_a_spill_file_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    transcript = Transcript([Stream("stdout", "a"), Spill("gone.txt", chars=9)], tmp_path)
    assert transcript.read(0, 100).text == "a\n[... 9 characters are not kept any more ...]\n"


@given(st.integers(0, 400), st.integers(1, 400))
def test_a_page_is_never_longer_than_asked(offset: int, limit: int) -> None:
    transcript = Transcript([Stream("stdout", "x" * 300)], Path("/nonexistent"))
    page = transcript.read(offset, limit)
    assert len(page.text) <= limit
    assert page.text == ("x" * 300)[offset : offset + limit]


@given(st.text(alphabet="aé\n", max_size=60), st.text(alphabet="aé\n", max_size=60))
def test_lines_are_found_as_if_the_text_were_in_one_piece(first: str, second: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outputs: list[Output] = [Stream("stdout", first)] if first else []
        transcript = Transcript([*outputs, spilled(Path(folder), second)], Path(folder))
        whole = first + second
        lines = whole.split("\n")[: -1 if whole.endswith("\n") or not whole else None]
        assert transcript.lines == len(lines)
        for number in range(1, len(lines) + 1):
            start = sum(len(line) + 1 for line in lines[: number - 1])
            assert transcript.offset_of(number) == start
        assert transcript.offset_of(len(lines) + 5) == len(whole)
        for count in (1, 2, 100):
            last = transcript.last(count, 1000).text
            assert last == "".join(whole.splitlines(keepends=True)[-count:])
        found, total = transcript.search("a", 2)
        having = [n for n, line in enumerate(lines, 1) if "a" in line]
        assert (total, [line.number for line in found]) == (len(having), having[:2])
