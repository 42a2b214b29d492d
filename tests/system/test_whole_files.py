"""Files and folders appear whole or not at all, and what is left over can be told."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.tiny import ROOT
from v2v_jax.system import whole_files
from v2v_jax.system.whole_files import (
    discard,
    is_temporary,
    leftovers,
    publish,
    temporary_path,
    whole_file,
    write_bytes,
    write_text,
)


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [True, False])
def test_text_and_bytes_replace_what_is_there(tmp_path, durable):
    path = tmp_path / "a.json"
    path.write_text("old")
    write_text(path, "grün\n", durable=durable)
    assert path.read_bytes() == "grün\n".encode()
    write_bytes(str(path), b"\0\xff", durable=durable)
    assert path.read_bytes() == b"\0\xff" and names(tmp_path) == ["a.json"]


def test_until_the_block_ends_the_old_file_stands(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    with whole_file(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".mp4"
        temporary.write_text("new")
        assert path.read_text() == "old" and is_temporary(temporary.name)
        assert leftovers(path) == [temporary]
    assert path.read_text() == "new" and names(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("folder", [False, True])
def test_after_an_error_nothing_is_left(tmp_path, error, folder):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "inside").write_text("half")
        else:
            temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_folders_appear_whole_and_replace_none_that_holds_something(tmp_path):
    def write():
        with whole_file(tmp_path / "out") as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / "a").write_text("x")

    write()
    assert (tmp_path / "out" / "deep" / "a").read_text() == "x"
    with pytest.raises(OSError):
        write()
    assert names(tmp_path) == ["out"]


def test_all_is_on_the_disk_before_the_name_is_given(tmp_path, monkeypatch):
    """Every file and folder of it first, then the name, then the folder that has the name."""
    order = []
    sync, replace = whole_files._sync_one, os.replace
    monkeypatch.setattr(
        whole_files, "_sync_one", lambda path: (order.append(pathlib.Path(path).name), sync(path))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    with whole_file(tmp_path / "out") as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "a").write_text("x")
    assert sorted(order[:-2]) == sorted(["a", "deep", temporary.name])
    assert order[-2:] == ["rename", tmp_path.name]
    order.clear()
    write_text(tmp_path / "b", "", durable=False)
    assert order == ["rename"]


def test_what_is_left_over_is_told_from_all_else(tmp_path):
    """Also from what belongs to a file whose name begins alike, or has odd characters."""
    paths = [tmp_path / name for name in ("a.mp4", "a.b.mp4", "a.flo", "a", "[a]*.mp4", "a\nb.mp4")]
    for path in paths:
        temporary = temporary_path(path)
        temporary.touch()
        assert leftovers(path) == [temporary] and is_temporary(temporary.name)
        path.touch()
        assert not is_temporary(path.name)
    for name in (".a.part.mp4", "a.part", f".a.{'g' * 32}.part", f"a.{'0' * 32}.part", ".part"):
        assert not is_temporary(name)
    assert leftovers(tmp_path / "missing" / "a") == []
    for path in paths:
        discard(*leftovers(path))
    assert not any(is_temporary(name) for name in names(tmp_path))


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"\x82\xa0.txt", b"a.caf\xe9"])
def test_names_of_another_code(tmp_path, name):
    """Names are bytes: those of Latin-1 or Shift-JIS, from an old archive, are no UTF-8."""
    path = tmp_path / os.fsdecode(name)
    write_text(path, "x")
    assert os.listdir(os.fsencode(tmp_path)) == [name]
    temporary = temporary_path(path)
    temporary.touch()
    assert leftovers(path) == [temporary] and is_temporary(temporary.name)
    write_text(path, f"<td>{path.name}</td>")
    assert "\\udc" in path.read_text(encoding="utf-8")


def test_long_names_that_begin_alike_do_not_share_what_is_left_over(tmp_path):
    """Who tidies for one of them would remove what another one is writing."""
    paths = [tmp_path / f"{'x' * 250}{end}" for end in ("a.mp4", "b.mp4")]
    temporaries = [temporary_path(path) for path in paths]
    for temporary in temporaries:
        temporary.touch()
    assert [leftovers(path) for path in paths] == [[temporary] for temporary in temporaries]


@pytest.mark.parametrize(
    "stem", ["x" * 251, "ü" * 125, "x" * 250 + "\udce9"], ids=["ascii", "two bytes", "code"]
)
def test_long_names(tmp_path, stem):
    """As long as the file system allows: the temporary name is cut, not refused."""
    write_text(tmp_path / f"{stem}.mp4", "x")
    assert names(tmp_path) == [f"{stem}.mp4"]
    temporary = temporary_path(tmp_path / f"{stem}.mp4")
    temporary.touch()
    assert leftovers(tmp_path / f"{stem}.mp4") == [temporary]


def test_publish_and_discard_of_a_longer_job(tmp_path):
    temporary = temporary_path(tmp_path / "a.txt")
    temporary.write_text("x")
    publish(temporary, tmp_path / "b.txt")  # under another name than was planned
    discard(temporary)  # nothing is there any more
    assert names(tmp_path) == ["b.txt"]
    link = tmp_path / "link"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    link.symlink_to(tmp_path / "folder")
    discard(link)
    assert (tmp_path / "folder" / "kept").exists() and not link.is_symlink()


# Begins to write two files and a folder, says so, and waits to be killed.
_WRITER = """
import time
from v2v_jax.system.whole_files import temporary_path

temporary_path("x.json").write_text("half")
temporary_path("frames").mkdir()
temporary_path("out.mp4").write_bytes(bytes(99))
print("begun", flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_by_who_writes_the_same_again(tmp_path):
    command = [sys.executable, "-c", _WRITER]
    begin = lambda: subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    killed, alive = begin(), begin()
    try:
        for process in (killed, alive):
            assert process.stdout.readline() == b"begun\n"
        killed.kill()
        killed.wait()
        (tmp_path / f".x.{'0' * 32}.part.json").touch()  # of another machine
        assert len(list(tmp_path.iterdir())) == 7
        for name in ("x.json", "frames", "out.mp4"):
            temporary_path(tmp_path / name)
        left = {path.name for path in tmp_path.iterdir()}
        assert len(left) == 4  # those of the process that lives, and of the other machine
        assert sum(f"{alive.pid:08x}" in name for name in left) == 3
    finally:
        for process in (killed, alive):
            process.kill()
            process.communicate()
    for name in ("x.json", "frames", "out.mp4"):
        temporary_path(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [f".x.{'0' * 32}.part.json"]


def test_what_is_written_beside_an_unfinished_file_is_of_the_same_file(tmp_path):
    """As an MP4's writer does for a job: what a killed one leaves is found by the file's name."""
    for name in ("clip.mp4", "folder", "a.b.mp4", f"{'x' * 250}.mp4"):
        path = tmp_path / name
        outer = whole_files.temporary_path(path)
        inner = whole_files.temporary_path(outer)
        assert outer != inner and outer.suffix == inner.suffix == (path.suffix or ".part")
        outer.touch()
        inner.touch()
        assert whole_files.leftovers(path) == sorted([outer, inner])
        third = whole_files.temporary_path(inner)
        assert outer.exists() and inner.exists() and not third.exists()  # their process lives


def test_a_process_that_has_the_number_of_a_dead_one_is_another(tmp_path):
    name = temporary_path(tmp_path / "x").name
    digits = name.removeprefix(".x.")[:32]
    assert not whole_files._is_dead(digits)
    began = int(digits[16:24], 16)
    assert whole_files._is_dead(f"{digits[:16]}{began ^ 1:08x}{digits[24:]}")
    assert not whole_files._is_dead(f"{'0' * 8}{digits[8:16]}{began ^ 1:08x}{digits[24:]}")
