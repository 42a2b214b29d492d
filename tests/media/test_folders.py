"""What folders hold: which files count as videos and pictures, and what is said of the others."""

import os

import pytest

from v2v_jax.media import folders
from v2v_jax.media.folders import LeftOut, find_videos, list_files, list_folders, list_pictures
from v2v_jax.media.picture_sequence import find_sequences


def fill(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def said(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def nothing_said_before(monkeypatch):
    monkeypatch.setattr(folders, "_said", set())


def test_videos_of_camcorders_and_upper_case(tmp_path):
    names = ["00001.MTS", "2.VOB", "3.m2ts", "10.vob", "a.TS", "b.3GP", "c.MpG", "d.gif"]
    fill(tmp_path, *names)
    assert find_videos(tmp_path) == names


def test_every_extension_is_of_a_format_that_is_opened():
    """`.mts`, `.vob` and so on are containers that the video reader's list of formats has."""
    from v2v_jax.media.containers import _VIDEO

    by_extension = {
        "mpegts": (".m2t", ".m2ts", ".mts", ".ts"),
        "mpeg": (".mpe", ".mpeg", ".mpg", ".vob"),
        "mpegvideo": (".m1v", ".m2v"),
        "matroska": (".mkv", ".webm"),
        "mov": (".3g2", ".3gp", ".f4v", ".m4v", ".mov", ".mp4"),
        "asf": (".asf", ".wmv"),
        "avi": (".avi", ".divx"),
        "mjpeg": (".mjpeg", ".mjpg"),
        "ogg": (".ogm", ".ogv"),
        "rm": (".rm", ".rmvb"),
        "yuv4mpegpipe": (".y4m",),
        **{kind: (f".{kind}",) for kind in ("dv", "flv", "gif", "ivf", "mxf", "nut")},
    }
    assert set(by_extension) <= set(_VIDEO.split(","))
    assert sorted(sum(by_extension.values(), ())) == sorted(folders.VIDEO_EXTENSIONS)


def test_hidden_and_half_written_files_are_never_data(tmp_path, caplog):
    fill(tmp_path, "clip.mp4", "._clip.mp4", ".x.part.mp4", ".cache/old.mp4", "sub/._b.mov")
    for _ in range(2):
        assert find_videos(tmp_path) == ["clip.mp4"]
    [sentence] = said(caplog)
    assert sentence.startswith(f"Folder {tmp_path}: left out 3 hidden files (")
    assert "._clip.mp4" in sentence and ".x.part.mp4" in sentence and "sub/._b.mov" in sentence


def test_linked_folders_are_searched_once(tmp_path, caplog):
    fill(tmp_path, "data/a/x.mp4", "disk2/y.mp4", "disk2/deep/z.mp4", "file.mp4")
    data = tmp_path / "data"
    (data / "b").symlink_to(tmp_path / "disk2")
    (data / "0").symlink_to(data / "a")  # comes first, but names stay those of the true folder
    (tmp_path / "disk2/deep/circle").symlink_to(data)
    (data / "linked.mp4").symlink_to(tmp_path / "file.mp4")
    (data / "broken.mp4").symlink_to(tmp_path / "none.mp4")
    expected = ["a/x.mp4", "b/deep/z.mp4", "b/y.mp4", "linked.mp4"]
    assert find_videos(data) == [name.replace("/", os.sep) for name in expected]
    [sentence] = said(caplog)
    assert "1 broken link (" in sentence and "broken.mp4" in sentence


def test_a_link_to_a_parent_ends(tmp_path):
    fill(tmp_path, "a/x.mp4")
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert find_videos(tmp_path / "a") == ["x.mp4"]
    fill(tmp_path, "y.mp4")
    assert find_videos(tmp_path / "a") == ["up/y.mp4", "x.mp4"]


def test_files_of_other_kinds_are_counted(tmp_path, caplog):
    fill(tmp_path, "a.mp4", "a.srt", "b.srt", "c.braw", "README")
    find_videos(tmp_path)
    [sentence] = said(caplog)
    assert sentence.endswith(
        "left out 4 files of other kinds (.srt: 2, no extension: 1, .braw: 1)."
    )


@pytest.mark.parametrize("run", ["", "run/", "deep/run/"])
def test_what_a_run_writes_is_no_data(tmp_path, caplog, run):
    """Where --workdir is in the folder of the videos, or is it: an evaluation's GIF is no video."""
    results = ["eval/clip0.gif", "eval/clip0.png", "checkpoints/1/a.gif", "config.json"]
    fill(tmp_path, "a.mp4", "eval2/b.gif", "frames/0.png", *(run + name for name in results))
    assert find_videos(tmp_path) == ["a.mp4", "eval2/b.gif"]
    assert f"1 folder of results ({tmp_path / run / 'eval'})" in said(caplog)[0]
    assert list(find_sequences(tmp_path)) == ["frames"]
    if not run:
        assert list_folders(tmp_path) == ["eval2", "frames"]


def test_a_folder_that_is_called_like_a_run_s_is_data(tmp_path):
    fill(tmp_path, "eval/a.mp4", "checkpoints/b.mp4")
    assert find_videos(tmp_path) == ["checkpoints/b.mp4", "eval/a.mp4"]


def test_nothing_is_said_where_nothing_is_found_or_left_out(tmp_path, caplog):
    fill(tmp_path, "frames/1.png", "frames/notes.txt")
    assert find_videos(tmp_path) == []
    fill(tmp_path, "videos/a.mp4")
    assert find_videos(tmp_path / "videos") == ["a.mp4"]
    assert said(caplog) == []


def test_pictures(tmp_path, caplog):
    fill(tmp_path, "10.png", "2.PNG", "._2.png", "x.webp", "y.pgm", "sub/3.png", "a.txt")
    (tmp_path / "folder.png").mkdir()
    assert list_pictures(tmp_path) == ["2.PNG", "10.png", "x.webp", "y.pgm"]
    assert len(said(caplog)) == 1
    shared = LeftOut()
    assert list_files(tmp_path, (".txt",), shared) == ["a.txt"]
    assert len(said(caplog)) == 1 and shared.others.total() == 4
    assert list_folders(tmp_path) == ["folder.png", "sub"]
