"""Table 2's script on a tiny network and tiny videos."""

import json

import numpy as np
import pytest

from experiments import table2
from tests.teachers import MINE, moving_squares
from v2v_jax.labelling.label_maker import LabelSet, LabelWork
from v2v_jax.media.label_files import StoredLabels, label_path
from v2v_jax.media.video import write_video


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


def test_bad_arguments(tmp_path, capsys):
    options = [f"--workdir={tmp_path}", f"--videos={tmp_path}", f"--output={tmp_path / 'out'}"]
    assert table2.main(options) == 1
    assert "holds no videos" in capsys.readouterr().err
