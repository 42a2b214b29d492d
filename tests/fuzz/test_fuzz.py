"""Mutated and random files: readers raise nothing but what they document, in bounded memory.

Coverage-guided and without an end: `python -m tests.fuzz.run` (extra `fuzz`).
"""

import os
import pathlib
import resource
import tracemalloc

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.fuzz.readers import TARGETS, run_once

MEMORY = 256 << 20  # bytes that reading one of these small files may take

EXAMPLES = {"video": 40, "stream": 25, "sound": 25, "overrides": 25, "ucf101_list": 60}


@st.composite
def mutations(draw, seeds: list[bytes]) -> bytes:
    """A seed with some bytes changed, cut out, doubled or inserted; or anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        # Headers are where readers are hurt: half of the changes are within the first 64 bytes.
        last = max(min(len(data), 64) if draw(st.booleans()) else len(data), 1) - 1
        at = draw(st.integers(0, last))
        size = draw(st.integers(1, 8))
        kind = draw(st.sampled_from(("set", "flip", "cut", "insert", "repeat", "end")))
        if kind == "set":
            data[at : at + size] = draw(st.binary(min_size=size, max_size=size))
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + size]
        elif kind == "insert":
            known = (b"\xff\xff\xff\xff", b"\x00" * 4, b"\x7f\xff\xff\xff", b"../", b"-")
            data[at:at] = draw(st.sampled_from(known))
        elif kind == "repeat":
            data[at:at] = data[at : at + 64]
        else:
            del data[at:]
    return bytes(data)


@pytest.mark.timeout(300)  # for a reader that hangs
@pytest.mark.parametrize("name", TARGETS)
def test_reader_raises_only_what_it_documents(name, tmp_path):
    target = TARGETS[name]
    (tmp_path / "seeds").mkdir()
    (tmp_path / "work").mkdir()
    seeds = target.seeds(tmp_path / "seeds")
    taken = [run_once(target, seed, tmp_path / "work") for seed in seeds]
    assert taken[0] == target.valid
    count = int(os.environ.get("V2V_FUZZ_EXAMPLES", EXAMPLES.get(name, 150)))

    @hypothesis.settings(max_examples=count, deadline=None, database=None, derandomize=count < 500)
    @hypothesis.given(mutations(seeds))
    def check(data):
        tracemalloc.start()
        try:
            run_once(target, data, tmp_path / "work")
            assert tracemalloc.get_traced_memory()[1] < MEMORY
        finally:
            tracemalloc.stop()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check()
    # FFmpeg's and Pillow's own memory, which tracemalloc does not see; kilobytes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (2 * MEMORY) >> 10


# ------------------------------------------------------------------------------------------------
# What is no file, and links


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_not_a_regular_file_is_refused(tmp_path, kind):
    """Opening a FIFO would wait for ever."""
    from v2v_jax.datasets.readers.ucf101 import _read_list
    from v2v_jax.errors import DataError
    from v2v_jax.media.flow_files import read_flow
    from v2v_jax.media.video import VideoFile

    path = tmp_path / "x.avi"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    for read in (VideoFile, read_flow, lambda p: list(_read_list(str(p)))):
        with pytest.raises(DataError, match="not a regular file|not a file"):
            read(path)


@pytest.mark.parametrize("place", ["file", "class"])
def test_link_out_of_the_dataset_is_refused(tmp_path, place):
    from v2v_jax.datasets.readers.ucf101 import Ucf101
    from v2v_jax.errors import DataError

    lists = tmp_path / "root" / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "trainlist01.txt").write_text("YoYo/v_YoYo_g08_c01.avi 1\n")
    videos, outside = tmp_path / "root" / "UCF-101", tmp_path / "outside"
    videos.mkdir()
    outside.mkdir()
    (outside / "v_YoYo_g08_c01.avi").write_bytes(b"secret")
    if place == "class":
        (videos / "YoYo").symlink_to(outside)
    else:
        (videos / "YoYo").mkdir()
        (videos / "YoYo" / "v_YoYo_g08_c01.avi").symlink_to(outside / "v_YoYo_g08_c01.avi")
    with pytest.raises(DataError, match="leads out of .*UCF-101, to .*outside.*copy it"):
        Ucf101(tmp_path / "root", "train")
    # The dataset's folder itself may be a link.
    pathlib.Path(tmp_path / "link").symlink_to(tmp_path / "root")
    with pytest.raises(DataError, match="leads out"):
        Ucf101(tmp_path / "link", "train")
