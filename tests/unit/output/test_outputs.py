"""Messages become outputs, outputs become text; no kernel is needed for that."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kernelry.output.fold import (
    Display,
    Error,
    Output,
    OutputFold,
    Spill,
    Stream,
    clip,
    fold,
    from_json,
    to_json,
)
from kernelry.output.terminal import readable


def message(kind: str, **content: Any) -> dict[str, Any]:
    return {"header": {"msg_type": kind}, "content": content}


def printed(text: str, name: str = "stdout") -> dict[str, Any]:
    return message("stream", name=name, text=text)


def test_neighbouring_writes_to_one_stream_become_one_output() -> None:
    expected = (Stream("stdout", "ab"), Stream("stderr", "c"), Stream("stdout", "d"))
    actual = fold([printed("a"), printed("b"), printed("c", "stderr"), printed("d")])
    assert actual == expected


def test_a_display_is_updated_where_it_stands() -> None:
    first = message("display_data", data={"text/plain": "1"}, transient={"display_id": "p"})
    update = message("update_display_data", data={"text/plain": "2"}, transient={"display_id": "p"})
    outputs = fold([first, printed("x"), update])
    assert isinstance(outputs[0], Display)
    assert outputs[0].text == "2"
    assert len(outputs) == 2


def test_an_update_of_an_unknown_display_is_shown_rather_than_lost() -> None:
    update = message("update_display_data", data={"text/plain": "2"}, transient={"display_id": "p"})
    assert len(fold([update])) == 1


def test_clear_output_waits_for_the_next_output_when_told_to() -> None:
    folding = OutputFold()
    folding.add(printed("old"))
    folding.add(message("clear_output", wait=True))
    assert folding.outputs == (Stream("stdout", "old"),)
    folding.add(printed("new"))
    assert folding.outputs == (Stream("stdout", "new"),)


def test_final_counts_replace_the_spill_that_was_announced() -> None:
    folding = OutputFold()
    folding.add(printed("head"))
    folding.add(message("kernelry_overflow", file="f.txt"))
    folding.add(message("error", ename="E", evalue="v", traceback=["t"]))
    folding.settle({"file": "f.txt", "chars": 7, "dropped": 1, "displays": 0})
    assert folding.outputs[1] == Spill("f.txt", chars=7, dropped=1)
    assert isinstance(folding.outputs[2], Error)


def test_the_last_line_skips_what_is_empty() -> None:
    folding = OutputFold()
    folding.add(printed("one\ntwo\n\n"))
    assert folding.last_line() == "two"


def test_escapes_are_removed_and_carriage_returns_applied() -> None:
    assert readable("\x1b[31mred\x1b[0m\r\nok") == "red\nok"
    assert readable("10%\r50%\r100%\ndone") == "100%\ndone"
    assert readable("a\x1b]8;;http://x\x07link\x07\x00b") == "alinkb"


@given(st.text(max_size=300), st.integers(min_value=4, max_value=400))
def test_a_clip_accounts_for_every_character(text: str, budget: int) -> None:
    cut = clip(text, budget)
    assert len(cut.head) + len(cut.tail) + cut.omitted == len(text)
    assert len(cut.head) + len(cut.tail) <= budget or not cut.omitted
    assert text.startswith(cut.head)
    assert text.endswith(cut.tail)


def test_a_clip_counts_what_is_only_known_by_number() -> None:
    cut = clip("h" * 100, 20, more=1000, tail="t" * 50)
    assert cut.head == "h" * 10
    assert cut.tail == "t" * 10
    assert cut.omitted == 1080


@given(
    st.lists(
        st.one_of(
            st.builds(Stream, st.sampled_from(["stdout", "stderr"]), st.text(max_size=20)),
            st.builds(Error, st.text(max_size=9), st.text(max_size=9), st.just(("a", "b"))),
            st.builds(
                Display,
                st.dictionaries(st.sampled_from(["text/plain", "image/png"]), st.text(max_size=9)),
                st.just({}),
                st.one_of(st.none(), st.integers(0, 9)),
            ),
            st.builds(Spill, st.just("f.txt"), st.integers(-1, 9), st.integers(0, 9)),
        ),
        max_size=6,
    )
)
def test_outputs_survive_the_store(outputs: list[Output]) -> None:
    assert [from_json(to_json(output)) for output in outputs] == outputs
