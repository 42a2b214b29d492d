"""The line of progress: in a terminal, and where there is none."""

import contextlib
import io
import re
import sys
import time

import pytest
import rich.console

from v2v_jax.system import console as module
from v2v_jax.system.console import ProgressLine

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 60 columns is sent."""
    file = io.StringIO()
    console = rich.console.Console(
        file=file, force_terminal=True, width=60, soft_wrap=True, markup=False, highlight=False,
        _environ={},
    )  # fmt: skip
    monkeypatch.setattr(module, "console", console)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    return file


def screen(file: io.StringIO) -> list[str]:
    """The lines that are left when every control code has had its effect (erasing a line)."""
    lines = [""]
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", file.getvalue()):
        if part == "\n":
            lines.append("")
        elif part == "\x1b[2K":
            lines[-1] = ""
        elif part.endswith("A") and part.startswith("\x1b["):
            del lines[len(lines) - int(part[2:-1] or 1) :]
        elif not _CONTROL.fullmatch(part):
            lines[-1] += part
    return [line.rstrip() for line in lines if line.strip()]


def test_without_a_terminal_a_line_an_interval(capsys):
    line = ProgressLine(0, 200)
    assert line.update(0, 4, {"loss": 2.0}) is None  # the first step: it compiled
    speed = line.update(10, 4, {"loss": 1.5, "accuracy": 0.25})
    assert speed > 0
    with line.pause():
        pass
    line.update(20, 4, {"loss": 1.0})
    line.end()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step   0/200  loss 2.0000"
    assert re.fullmatch(
        r"step  10/200  loss 1.5000  accuracy 0.2500  [\d.]+ clips/s  [\d:]+ left", lines[1]
    )
    assert len(lines) == 3 and lines[2].startswith("step  20/200  loss 1.0000")


def test_in_a_terminal_one_line_is_drawn_over(terminal):
    line = ProgressLine(0, 200)
    line.update(0, 4, {"loss": 2.0})
    for step in (10, 20):
        line.update(step, 4, {"loss": 30.0 / step})
    assert [text[:23] for text in screen(terminal)] == ["step  20/200  loss 1.50"]
    assert terminal.getvalue().count("\x1b[?25l") == 1  # the cursor is hidden once …
    with line.pause():
        assert terminal.getvalue().count("\x1b[?25h") == 1  # … and is back
        module.console.print("step 20  test accuracy 0.5")
    line.update(30, 4, {"loss": 1.0})
    line.end()
    line.end()
    assert [text[:22] for text in screen(terminal)] == [
        "step  20/200  loss 1.5", "step 20  test accuracy", "step  30/200  loss 1.0",
    ]  # fmt: skip


def test_a_line_longer_than_the_terminal_is_cut(terminal):
    line = ProgressLine(0, 200)
    for step in (10, 20):
        line.update(step, 4, {f"metric{i}": float(i) for i in range(20)})
    line.end()
    (text,) = screen(terminal)
    assert text.startswith("step  20/200  metric0 0.0000") and len(text) <= 60


# ------------------------------------------------------------------------------------------------
# Without a terminal: never silent for long


@pytest.fixture
def quick(monkeypatch):
    """A line every hundredth of a second, and waits worth a word from the first one on."""
    monkeypatch.setattr(module, "LINE_EVERY", 0.01)
    monkeypatch.setattr(module, "_SOON", 0.01)


def heard(capsys, text: str) -> str:
    """What is printed from now on until `text` is."""
    out, end = "", time.monotonic() + 60
    while text not in out:
        assert time.monotonic() < end, out
        time.sleep(0.01)
        out += capsys.readouterr().out
    return out


def test_a_wait_is_spoken_of_while_it_lasts_and_when_it_is_over(quick, capsys):
    with module.waiting("Preparing"):
        assert re.fullmatch(r"(Preparing … \d s\n)+", heard(capsys, "Preparing … "))
    assert re.search(r"^Preparing: \d s$", capsys.readouterr().out, re.MULTILINE)


def test_a_short_wait_is_not_spoken_of(capsys):
    with module.waiting("Preparing"):
        pass
    assert not capsys.readouterr().out


def test_a_wait_that_fails_ends_its_lines(quick, capsys):
    with pytest.raises(KeyError), module.waiting("Preparing"):
        raise KeyError
    assert "Preparing:" not in capsys.readouterr().out
    time.sleep(0.05)
    assert not capsys.readouterr().out


def test_only_the_first_item_is_waited_for(monkeypatch):
    events = []

    @contextlib.contextmanager
    def waiting(what):
        events.append(f"begin {what}")
        yield
        events.append("end")

    def items():
        for item in (1, 2):
            events.append(item)
            yield item

    monkeypatch.setattr(module, "waiting", waiting)
    assert list(module.waiting_for_first(items(), "Preparing")) == [1, 2]
    assert events == ["begin Preparing", 1, "end", 2]
    assert list(module.waiting_for_first((), "Preparing")) == []


def test_progress_speaks_between_items_that_take_long(quick, capsys):
    def items():
        yield "a"
        heard(capsys, "reading: 1 of 2, ")
        yield "b"

    assert list(module.progress(items(), 2, "reading")) == ["a", "b"]
    assert re.search(r"^reading: 2 done in .* s$", capsys.readouterr().out, re.MULTILINE)


def test_progress_without_a_summary(capsys):
    assert list(module.progress(iter("ab"), 2, "reading", summary=False)) == ["a", "b"]
    assert not capsys.readouterr().out


def test_frames_are_counted_once_there_are_any(quick, capsys):
    with module.FramesBar("in.mp4", 30, "preparing the network") as bar:
        heard(capsys, "in.mp4: preparing the network … ")
        bar.tick(10)
        out = heard(capsys, "in.mp4: 10 of 30 frames, ")
    assert re.search(r"^in\.mp4: 10 of 30 frames, \d+\.\d frames/s$", out, re.MULTILINE)


def test_a_bar_of_frames_never_shows_a_speed_that_is_not_known(terminal):
    with module.FramesBar("in.mp4", None, "preparing the network") as bar:
        bar.tick(10)
    assert "None" not in terminal.getvalue() and "frames/s" in terminal.getvalue()
