"""Labels on disk: what is read is what was written, to 1/64 px, or an error."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media import label_files
from v2v_jax.media.label_codes import STEPS, decode_flow, encode_flow
from v2v_jax.media.label_files import LabelInfo, LabelWriter, StoredLabels

INFO = LabelInfo("mine", {"a": 1}, 10, "ab", num_frames=11, video_size=(12, 10), size=(6, 5))


def random_flow(frames=10, size=(6, 5), scale=20.0):
    return np.random.default_rng(3).normal(0, scale, (frames, *size, 2)).astype(np.float32)


def write(path, codes, info=INFO):
    writer = LabelWriter(path, info)
    for start in range(0, len(codes), 4):  # batches that do not divide the shards
        writer.append(codes[start : start + 4])
    writer.finish()


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=1, max_dims=3, max_side=4).map(lambda shape: (*shape, 2)),
        elements=st.floats(-1030, 1030, width=32, allow_subnormal=False),
    )
)
def test_error_is_at_most_a_64th_of_a_pixel_or_it_says_so(flow):
    for step, largest in zip(STEPS, (511.98, 1023.96)):
        codes, too_large = encode_flow(flow, step)
        if np.abs(flow).max() <= largest:
            assert codes.dtype == np.int16 and not too_large
            decoded, known = decode_flow(codes, step)
            assert known.all() and np.abs(decoded.astype(np.float64) - flow).max() <= step / 2
            assert step / 2 <= 1 / 64
        elif np.abs(flow).max() >= largest + step:
            assert too_large


def test_what_is_not_a_number_is_unknown_and_what_is_infinite_an_error():
    flow = random_flow(2)
    flow[0, 1, 2, 0], flow[1, 3, 3] = np.nan, np.nan
    codes, too_large = encode_flow(flow, STEPS[0])
    decoded, known = decode_flow(codes, STEPS[0])
    assert not too_large and (~known).sum() == 2 and not known[0, 1, 2] and not known[1, 3, 3]
    np.testing.assert_array_equal(decoded[~known], 0)
    np.testing.assert_allclose(decoded[known], flow[known], atol=1 / 128)
    flow[0, 0, 0, 1] = np.inf
    assert encode_flow(flow, STEPS[0])[1]


def test_jax_encodes_as_numpy_does():
    flow = random_flow(3, scale=300.0)
    flow[0, 0, 0] = np.nan
    for step in STEPS:
        codes, too_large = encode_flow(flow, step)
        on_device = encode_flow(jnp.asarray(flow), step, jnp)
        np.testing.assert_array_equal(on_device[0], codes)
        assert bool(on_device[1]) == bool(too_large) == (step == STEPS[0])


@pytest.mark.parametrize("shard", [1, 3, 10, 64])
def test_any_window_can_be_read(tmp_path, monkeypatch, shard):
    monkeypatch.setattr(label_files, "_SHARD_FRAMES", shard)
    flow = random_flow()
    path = tmp_path / "a.flow.zarr"
    write(path, encode_flow(flow, STEPS[0])[0])
    assert len([p for p in path.rglob("*") if p.is_file()]) == 1 + -(-10 // shard)
    labels = StoredLabels(path)
    assert labels.info == INFO
    for start in range(11):
        for stop in range(start + 1, 12):
            read = labels.read(start, stop)
            found, known = read["flow"], read["flow_valid"]
            assert found.shape == (stop - start, 6, 5, 2) and found.dtype == np.float32
            inside = min(stop, 10) - start
            np.testing.assert_allclose(found[:inside], flow[start:stop], atol=1 / 128)
            assert known[:inside].all()
            # The last frame leads nowhere.
            assert not known[inside:].any() and not found[inside:].any()
    for start, stop in ((-1, 3), (3, 3), (5, 12)):
        with pytest.raises(ValueError, match="the video has 11"):
            labels.read(start, stop)


def test_other_programs_can_read_it(tmp_path):
    """It is plain Zarr, version 3: what the specification asks for is in zarr.json."""
    write(tmp_path / "a", encode_flow(random_flow(), STEPS[0])[0])
    metadata = json.loads((tmp_path / "a" / "zarr.json").read_text())
    assert metadata["zarr_format"] == 3 and metadata["node_type"] == "array"
    assert metadata["shape"] == [10, 6, 5, 2] and metadata["data_type"] == "int16"
    assert metadata["attributes"]["video_sha256"] == "ab"
    assert metadata["attributes"]["step"] == 1 / 64


def test_wrong_numbers_of_pairs(tmp_path):
    codes = encode_flow(random_flow(12), STEPS[0])[0]
    writer = LabelWriter(tmp_path / "few", INFO)
    writer.append(codes[:9])
    with pytest.raises(ValueError, match="9 were written, 10 promised"):
        writer.finish()
    writer = LabelWriter(tmp_path / "many", INFO)
    with pytest.raises(ValueError, match="More than the 10"):
        writer.append(codes)
        writer.finish()


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "a"
    flow = random_flow()
    write(path, encode_flow(flow, STEPS[0])[0])
    (shard,) = (p for p in (path / "c").rglob("*") if p.is_file())
    intact = shard.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(intact), 60):
        damaged = bytearray(intact)
        damaged[place] ^= 1 << int(rng.integers(8))
        shard.write_bytes(damaged)
        with pytest.raises(CorruptVideoError, match="are damaged at frames 0..10"):
            StoredLabels(path).read(0, 11)
    shard.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(CorruptVideoError, match="damaged"):
        StoredLabels(path).read(0, 11)
    shard.unlink()
    with pytest.raises(CorruptVideoError, match="damaged"):
        StoredLabels(path).read(4, 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"format"', '"fromat"'),
        lambda text: text.replace('"format":1', '"format":2').replace('"format": 1', '"format": 2'),
        lambda text: text.replace("attributes", "atributes"),
        lambda text: text.replace("video_sha256", "video_sha"),
        lambda text: "[]",
    ],
)
def test_damaged_descriptions(tmp_path, change):
    write(tmp_path / "a", encode_flow(random_flow(), STEPS[0])[0])
    file = tmp_path / "a" / "zarr.json"
    changed = change(file.read_text())
    assert changed != file.read_text()
    file.write_text(changed)
    with pytest.raises(DataError, match="a cannot be read .*label it again"):
        StoredLabels(tmp_path / "a")


def test_descriptions_that_do_not_fit_the_array(tmp_path):
    write(tmp_path / "a", encode_flow(random_flow(), STEPS[0])[0])
    file = tmp_path / "a" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"]["num_frames"] = 12
    file.write_text(json.dumps(metadata))
    with pytest.raises(CorruptVideoError, match="holds int16"):
        StoredLabels(tmp_path / "a").read(0, 1)
    with pytest.raises(DataError, match="none do not exist; label it again"):
        StoredLabels(tmp_path / "none")


def test_large_frames_take_small_shards(tmp_path):
    """Memory while writing does not grow with the video."""
    info = dataclasses.replace(INFO, num_frames=100, size=(1080, 1920))
    writer = LabelWriter(tmp_path / "a", info)
    assert writer._shard.nbytes <= 64 * 2**20
    assert not any(pathlib.Path(tmp_path / "a").rglob("c/*"))
