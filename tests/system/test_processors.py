"""How many processors there are for a process: the machine's, its share, its container's."""

import os

import pytest

from v2v_jax.system import processors


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000\n", 6),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 6),  # more than there are
        ("what is this\n", 6),
        (None, 6),
    ],
)
def test_a_containers_limit(limit, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(processors, "_LIMIT", tmp_path / "cpu.max")
    if limit is not None:
        (tmp_path / "cpu.max").write_text(limit)
    assert processors.count() == expected


def test_systems_without_affinity(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(processors, "_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors.count() == 1
