"""Table 2's script on a tiny network and tiny videos."""

import json
import pathlib

import numpy as np
import pytest

from experiments import table2
from tests.teachers import MINE, moving_squares
from v2v_jax.labelling.label_maker import LabelSet, LabelWork
from v2v_jax.media.label_files import StoredLabels, label_path
from v2v_jax.media.video import write_video
from v2v_jax.system.jobs import Report


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_both_methods_write_flow_for_every_frame(trained, tmp_path, monkeypatch, capsys, processes):
    import v2v_jax

    labels = lambda batch_size: LabelSet("", (), "", MINE, batch_size=batch_size)
    # Compiling Brox's method would take most of the time; it has its tests elsewhere.
    monkeypatch.setattr(table2, "brox_work", lambda batch_size: LabelWork(labels(batch_size)))
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, count in (("a.mp4", 9), ("b.mp4", 11)):
        write_video(videos / name, moving_squares(count, (36, 44)))
    workdir = str(trained("flow").workdir)
    options = [f"--workdir={workdir}", f"--videos={videos}", f"--output={tmp_path / 'out'}"]
    options += ["--repeats=1", "--keep", f"--processes={processes}", "--threads=2"]
    assert table2.main(options) == 0
    result = json.loads((tmp_path / "out" / "table2.json").read_text())
    assert [row["frames"] for row in result["rows"].values()] == [20, 20, 20]
    assert all(row["fps"] > 0 for row in result["rows"].values())
    assert "| Brox |" in (tmp_path / "out" / "table2.md").read_text()
    assert "91.6" in capsys.readouterr().out

    predictor = v2v_jax.load(workdir)
    labels = StoredLabels(label_path(tmp_path / "out" / "windows_that_overlap", "b.mp4"))
    read = labels.read(0, 11)
    flow, known = read["flow"], read["flow_valid"]
    assert known[:-1].all() and labels.info.size == (36, 44)
    expected = predictor(str(videos / "b.mp4"))
    np.testing.assert_allclose(flow[:-1], expected[:-1], atol=1 / 100)


@pytest.mark.parametrize(
    ("threads", "processes"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (16, 8), (0, 1)]
)
def test_as_many_processes_as_have_two_threads_each(threads, processes):
    assert table2.default_processes(threads) == processes


def test_the_default_and_what_the_table_names(tmp_path, monkeypatch, capsys):
    """Of 16 threads; but no more processes than videos. Nothing is computed."""
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_video(tmp_path / name, moving_squares(2, (16, 16)))
    asked = []

    def measure(method, labels, first, repeats):
        asked.append((method.processes, method.threads))
        pathlib.Path(labels.output).mkdir()
        return [Report(seconds=2.0, frames=100)]

    monkeypatch.setattr(table2, "measure", measure)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")  # what main sets ends with the test
    out = tmp_path / "out"
    options = [f"--workdir={tmp_path}", f"--videos={tmp_path}", f"--output={out}", "--threads=16"]
    assert table2.main(options) == 0
    assert asked == [(1, 4), (3, 5), (3, 5)]
    assert "| V2V, whole frames | 3 | 5 | 50.0 | 1.0 | 91.6 | 70 |" in capsys.readouterr().out
    rows = json.loads((out / "table2.json").read_text())["rows"].values()
    assert [(row["processes"], row["threads"]) for row in rows] == asked


def test_bad_arguments(tmp_path, capsys):
    options = [f"--workdir={tmp_path}", f"--videos={tmp_path}", f"--output={tmp_path / 'out'}"]
    assert table2.main(options) == 1
    assert "holds no videos" in capsys.readouterr().err
