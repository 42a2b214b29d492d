"""Warnings and errors: one line each on standard error, tracebacks of none."""

import asyncio
import gc
import logging
import sys
import types

import absl.logging
import pytest

from v2v_jax.system import messages


@pytest.fixture
def installed(monkeypatch):
    """Installed twice, as by two commands of one process; taken back after the test."""
    monkeypatch.setattr(logging.root, "handlers", [absl.logging.get_absl_handler()])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = absl.logging.get_verbosity()
    messages.install()
    messages.install()
    yield
    absl.logging.set_verbosity(before)


def test_one_line_without_place_and_traceback(installed, capsys):
    absl.logging.info("nobody wants to know")
    absl.logging.warning("The cache %s is\nbuilt anew.", "x")
    try:
        raise ValueError("inside")
    except ValueError:
        logging.getLogger("another.library").exception("It failed.")
    captured = capsys.readouterr()
    assert captured.err == "Warning: The cache x is built anew.\nError: It failed.\n"
    assert captured.out == ""


def test_what_orbax_says_of_a_failed_write_is_left_out(installed, capsys):
    record = logging.makeLogRecord(
        {"msg": "Traceback …", "levelno": logging.ERROR, "levelname": "ERROR",
         "pathname": "/site-packages/orbax/checkpoint/writer.py"}
    )  # fmt: skip
    logging.getLogger("absl").handle(record)
    closed = RuntimeError("Event loop is closed")
    shown = []
    sys.__unraisablehook__, real = shown.append, sys.__unraisablehook__
    try:
        for error in (closed, RuntimeError("another one")):
            sys.unraisablehook(types.SimpleNamespace(exc_value=error))
    finally:
        sys.__unraisablehook__ = real
    loop = asyncio.new_event_loop()
    loop.create_future().set_exception(OSError(28, "No space left on device"))  # of many writes
    gc.collect()
    loop.close()
    assert capsys.readouterr().err == ""
    assert [str(each.exc_value) for each in shown] == ["another one"]
