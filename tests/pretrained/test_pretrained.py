"""Every format of C3D's weights, written here as the real files are, and the networks they make."""

import io
import os
import pathlib
import struct
import tracemalloc
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import weight_files as files
from v2v_jax.cli import commands
from v2v_jax.errors import WeightsError
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.models import C3D
from v2v_jax.pretrained import Weights, load_c3d, read_weights
from v2v_jax.pretrained.caffe import read_mean
from v2v_jax.pretrained.folders import write_folder
from v2v_jax.pretrained.input_folding import fold_input

ARRAYS = files.caffe_arrays()
BGR = ("bgr", (90.3, 97.7, 101.4))


def without_classifier(layers=("fc8",)):
    return {name: pair for name, pair in ARRAYS.items() if name not in layers}


def npz(arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def tensorflow_npz(form: str) -> bytes:
    arrays = {}
    for name, (kernel, bias) in files.to_tensorflow(ARRAYS).items():
        if form == "slashes":
            arrays[f"{name}/kernel"], arrays[f"{name}/bias"] = kernel, bias
        elif form == "keras 1":
            short = name.rstrip("a") if name in ("conv1a", "conv2a") else name
            arrays[f"{short}_W"], arrays[f"{short}_b"] = kernel, bias
        else:  # the port that reads pool5 in Caffe's order
            if name == "fc6":
                kernel = ARRAYS["fc6"][0].T
            port = {"fc6": "d1", "fc7": "d2", "fc8": "out", "conv1a": "c1", "conv2a": "c2"}
            short = port.get(name, name.replace("onv", ""))
            arrays["out" if short == "out" else f"w{short}"] = kernel
            arrays[f"b{short}"] = bias
    return npz(arrays)


FORMATS = {
    "caffe v1.0": (lambda: files.net(ARRAYS, files.blob_v10), "Caffe v1.0", BGR),
    "caffe v1.0, V0 layers": (lambda: files.net_v0(ARRAYS), "Caffe v1.0", BGR),
    "caffe v1.1": (lambda: files.net(ARRAYS, files.blob_v11, 100, 1, 7), "Caffe v1.1", BGR),
    "caffe v1.1, V1 layers": (lambda: files.net(ARRAYS, files.blob_v11), "Caffe v1.1", BGR),
    "c3d.pickle": (
        lambda: files.pytorch_legacy(files.named(ARRAYS, "pickle")),
        "PyTorch, before 1.6",
        BGR,
    ),
    "zip": (lambda: files.pytorch_zip(files.named(ARRAYS, "pickle")), "PyTorch archive", BGR),
    "features": (
        lambda: files.pytorch_zip(files.named(ARRAYS, "features")),
        "PyTorch archive",
        ("bgr", (90.0, 98.0, 102.0)),
    ),
    "mmaction2": (
        lambda: files.pytorch_zip(files.named(ARRAYS, "mmaction2"), "state_dict"),
        "PyTorch archive",
        ("rgb", (104.0, 117.0, 128.0)),
    ),
    "npz": (lambda: tensorflow_npz("slashes"), "NumPy archive", BGR),
    "npz of Keras 1's names": (lambda: tensorflow_npz("keras 1"), "NumPy archive", BGR),
    "npz of the TensorFlow port": (lambda: tensorflow_npz("port"), "NumPy archive", BGR),
    # As numpy.savez writes a state_dict.
    "npz in PyTorch's order": (
        lambda: npz(files.named(ARRAYS, "pickle")),
        "NumPy archive",
        BGR,
    ),
    "npz of mmaction2": (
        lambda: npz(files.named(ARRAYS, "mmaction2")),
        "NumPy archive",
        ("rgb", (104.0, 117.0, 128.0)),
    ),
    "npz of features": (
        lambda: npz(files.named(ARRAYS, "features")),
        "NumPy archive",
        ("bgr", (90.0, 98.0, 102.0)),
    ),
}


def written(folder: pathlib.Path, content: bytes, name: str = "weights") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def error_of(path) -> str:
    """The message of the WeightsError, which must be one line."""
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_is_c3d(params, layers=tuple(ARRAYS)):
    """Conv kernels (T,H,W,in,out), fc (in,out), fc6's inputs in the order (H,W,C)."""
    assert set(params) == set(layers)
    for name in layers:
        weights, bias = ARRAYS[name]
        kernel = params[name]["kernel"]
        assert kernel.dtype == np.float32 and kernel.flags.c_contiguous
        if weights.ndim == 5:
            weights = np.einsum("oithw->thwio", weights)
        elif name == "fc6":
            weights = np.einsum("nchw->hwcn", weights.reshape(-1, 26, 2, 2)).reshape(kernel.shape)
        else:
            weights = weights.T
        np.testing.assert_array_equal(kernel, weights)
        np.testing.assert_array_equal(params[name]["bias"], bias)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_parameters(form, tmp_path):
    content, name, (order, mean) = FORMATS[form]
    weights = read_weights(written(tmp_path, content()))
    layers = [n for n in ARRAYS if n != "fc8" or "features" not in form]
    assert_is_c3d(weights.params, layers)
    assert weights.format == name and weights.missing == tuple(set(ARRAYS) - set(layers))
    assert (weights.preprocessing.color_order, weights.preprocessing.mean) == (order, mean)
    assert weights.preprocessing.std == (1.0, 1.0, 1.0)


def test_values_one_by_one_are_read_too(tmp_path):
    """Protocol Buffers allow it; V1 layers of v1.1 with the old four sizes hold fc layers."""
    blob = lambda a: files.blob_v11_unpacked(a) if a.ndim < 3 else files.blob_v11(a)
    assert_is_c3d(load_c3d(written(tmp_path, files.net(ARRAYS, blob))))


def test_a_square_layer_alone_goes_by_its_name(tmp_path):
    """fc7 is square, so that its shape does not tell which axis is which."""
    convolutions = {n: pair for n, pair in ARRAYS.items() if n.startswith("conv")}
    for arrays in (
        files.named({**ARRAYS}, "pickle"),
        {
            f"{n}/{leaf}": a
            for n, pair in files.to_tensorflow(ARRAYS).items()
            for leaf, a in zip(("kernel", "bias"), pair)
        },
    ):
        kept = {n: a for n, a in arrays.items() if not n.startswith(("fc6", "fc8"))}
        params = read_weights(written(tmp_path, npz(kept))).params
        assert_is_c3d(params, (*convolutions, "fc7"))


@pytest.mark.parametrize("form", ["keras", "keras 1", "th", "pytorch"])
def test_hdf5(form, tmp_path):
    h5py = pytest.importorskip("h5py")
    path = str(tmp_path / "weights")
    with h5py.File(path, "w") as file:
        for name, (kernel, bias) in files.to_tensorflow(ARRAYS).items():
            if form == "th" and kernel.ndim == 5:  # clips as (C,T,H,W), and so fc6's inputs
                kernel = ARRAYS[name][0]
            elif form == "th" and name == "fc6":
                kernel = ARRAYS[name][0].T
            elif form == "pytorch":
                kernel = ARRAYS[name][0]
            layer = file.create_group(name)
            if form == "keras 1":
                layer[f"{name}_W"], layer[f"{name}_b"] = kernel, bias
            else:
                layer[f"{name}/kernel:0"] = kernel
                layer.create_dataset(f"{name}/bias:0", data=bias, compression="gzip")
        file["optimizer_weights/Adam/m/conv1a/kernel:0"] = np.zeros((3, 3, 3, 3, 3), np.float32)
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    weights = read_weights(path)
    assert_is_c3d(weights.params)
    assert weights.left_over == ("/optimizer_weights/Adam/m/conv1a/kernel:0",)


def test_hdf5_claims_are_checked_before_reading(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = str(tmp_path / "weights.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("conv1a/kernel", (2**20, 2**20), "f4", chunks=(64, 64))
    assert "claims arrays of more than" in error_of(path)
    with h5py.File(path, "w") as file:
        external = [(str(tmp_path / "secret"), 0, 324)]
        file.create_dataset("conv1a/kernel", (3, 3, 3, 3, 1), "f4", external=external)
    assert "lies in another file" in error_of(path)


# ------------------------------------------------------------------------------------------------
# The networks


def caffe_network(x: np.ndarray) -> np.ndarray:
    """C3D's scores of BGR (B,T,H,W,3) minus mean, in (C,T,H,W), float64, without this package."""

    def conv(x, name):
        weights, bias = (a.astype(np.float64) for a in ARRAYS[name])
        padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (1, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3), (2, 3, 4))
        y = np.einsum("bcthwijk,ocijk->bothw", windows, weights, optimize=True)
        return np.maximum(y + bias[:, None, None, None], 0)

    def pool(x, t=2):
        pads = [(0, 0), (0, 0), *((0, -n % w) for n, w in zip(x.shape[2:], (t, 2, 2)))]
        x = np.pad(x, pads, constant_values=-np.inf)
        b, c, n, h, w = x.shape
        return x.reshape(b, c, n // t, t, h // 2, 2, w // 2, 2).max((3, 5, 7))

    y = pool(conv(np.moveaxis(x, -1, 1).astype(np.float64), "conv1a"), 1)
    y = pool(conv(y, "conv2a"))
    y = pool(conv(conv(y, "conv3a"), "conv3b"))
    y = pool(conv(conv(y, "conv4a"), "conv4b"))
    y = pool(conv(conv(y, "conv5a"), "conv5b")).reshape(len(x), -1)
    for name in ("fc6", "fc7"):
        y = np.maximum(y @ ARRAYS[name][0].T + ARRAYS[name][1], 0)
    return y @ ARRAYS["fc8"][0].T + ARRAYS["fc8"][1]


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(5).integers(0, 256, (1, *files.CLIP, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network(compilation_cache):
    return jax.jit(C3D(5, width=files.WIDTH).apply)


def test_the_network_scores_as_caffe_would(tmp_path, clip, network):
    weights = read_weights(written(tmp_path, FORMATS["caffe v1.0"][0]()))
    expected = caffe_network(clip[..., ::-1] - np.array([90.3, 97.7, 101.4]))
    inputs = weights.preprocessing.normalize(clip)
    actual = network({"params": weights.params}, inputs)
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)
    # The same with the input folded into conv1a: this package's RGB, divided by 60.
    modern = Preprocessing()
    params = weights.params | {
        "conv1a": fold_input(weights.params["conv1a"], weights.preprocessing, modern)
    }
    folded = network({"params": params}, modern.normalize(clip))
    assert np.linalg.norm(folded - expected) < 1e-5 * np.linalg.norm(expected)


def test_a_folded_mean_is_exact_inside(clip):
    """conv1a's own output: everywhere but for the outermost voxels, where zeros are padded."""
    from v2v_jax.models.lowering.convolution import conv3d

    layer = {
        "kernel": np.einsum("oithw->thwio", ARRAYS["conv1a"][0]),
        "bias": ARRAYS["conv1a"][1],
    }
    source = Preprocessing(color_order="bgr", mean=(90.3, 97.7, 101.4), std=(1.0, 1.0, 1.0))
    target = Preprocessing(mean=(120.0, 100.0, 80.0), std=(50.0, 60.0, 70.0))
    folded = fold_input(layer, source, target, fold_mean=True)
    run = lambda layer, p: np.asarray(
        conv3d(p.normalize(clip), layer["kernel"], ((1, 1),) * 3) + layer["bias"]
    )
    expected, actual = run(layer, source), run(folded, target)
    inside = (slice(None), *[slice(1, -1)] * 3)
    scale = np.abs(expected).max()
    assert np.abs(actual - expected)[inside].max() < 1e-5 * scale
    assert np.abs(actual - expected).max() > 1e-3 * scale


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", ["pickle", "features", "mmaction2"])
def test_files_that_pytorch_wrote(legacy, form, tmp_path):
    torch = pytest.importorskip("torch")
    import collections

    state = collections.OrderedDict(
        (name, torch.nn.Parameter(torch.from_numpy(a)) if i == 2 else torch.from_numpy(a))
        for i, (name, a) in enumerate(files.named(ARRAYS, form).items())
    )
    first = next(iter(state))
    state[first] = state[first].double()
    state["steps"] = torch.tensor(3)
    path = str(tmp_path / "c3d.bin")
    content = {"state_dict": state, "meta": {"epoch": 3}} if form == "mmaction2" else state
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    weights = read_weights(path)
    assert_is_c3d(weights.params, [n for n in ARRAYS if n != "fc8" or form != "features"])


@pytest.mark.parametrize("kind", ["half", "bfloat16"])
def test_half_precision_and_strides_of_pytorch(kind, tmp_path):
    torch = pytest.importorskip("torch")
    arrays = files.named(ARRAYS, "pickle")
    state = {name: getattr(torch.from_numpy(a), kind)() for name, a in arrays.items()}
    state["fc7.weight"] = state["fc7.weight"].t().contiguous().t()  # a view, in another order
    path = str(tmp_path / "c3d.bin")
    torch.save(state, path)
    params = load_c3d(path)
    expected = state["conv2.weight"].float().numpy().transpose(2, 3, 4, 1, 0)
    np.testing.assert_array_equal(params["conv2a"]["kernel"], expected)
    np.testing.assert_array_equal(params["fc7"]["kernel"], state["fc7.weight"].float().numpy().T)


def test_pytorchs_network_scores_the_same(tmp_path, clip, network):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    tensor = lambda name: [torch.from_numpy(a).double() for a in ARRAYS[name]]
    conv = lambda x, name: F.relu(F.conv3d(x, *tensor(name), padding=1))
    pool = lambda x, t=2: F.max_pool3d(x, (t, 2, 2), ceil_mode=True)
    x = torch.from_numpy(clip[..., ::-1] - np.array([90.3, 97.7, 101.4])).permute(0, 4, 1, 2, 3)
    y = pool(conv(pool(conv(x, "conv1a"), 1), "conv2a"))
    for stage in "345":
        y = pool(conv(conv(y, f"conv{stage}a"), f"conv{stage}b"))
    y = y.flatten(1)
    for name in ("fc6", "fc7"):
        y = F.relu(F.linear(y, *tensor(name)))
    expected = F.linear(y, *tensor("fc8")).numpy()
    weights = read_weights(written(tmp_path, FORMATS["c3d.pickle"][0]()))
    actual = network({"params": weights.params}, weights.preprocessing.normalize(clip))
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["caffe", "zip", "legacy", "npz", "folder"])
def test_files_of_the_real_size(form, tmp_path):
    """conv1a … conv5a of the real C3D and its fc6, 0.25 GB: reading copies no file into memory."""
    full = {}
    for name, (inputs, outputs) in files.CHANNELS.items():
        scale = {3: 64, 6: 128, 13: 256, 26: 512}
        shape = (scale[outputs], 3 if name == "conv1a" else scale[inputs], 3, 3, 3)
        full[name] = np.full(shape, 0.5, np.float32), np.zeros(shape[0], np.float32)
    full["fc6"] = np.full((4096, 8192), 0.25, np.float32), np.zeros(4096, np.float32)
    if form == "folder":
        params = {n: {"kernel": w.T.copy(), "bias": b} for n, (w, b) in full.items()}
        write_folder(Weights(params, Preprocessing(), "made", "here"), tmp_path / "folder")
        path = str(tmp_path / "folder")
    elif form == "npz":
        arrays = {
            f"{n}/{leaf}": a
            for n, (w, b) in full.items()
            for leaf, a in (
                ("kernel", np.moveaxis(w, (0, 1), (4, 3)) if w.ndim == 5 else w.T),
                ("bias", b),
            )
        }
        path = str(tmp_path / "weights.npz")
        np.savez(path, **arrays)
    else:
        flat = {
            f"{n}.{leaf}": a
            for n, pair in full.items()
            for leaf, a in zip(("weight", "bias"), pair)
        }
        if form == "caffe":
            content = files.net(full, files.blob_v10)
        else:
            content = (files.pytorch_zip if form == "zip" else files.pytorch_legacy)(flat)
        path = written(tmp_path, content)
        del content, flat
    del full
    tracemalloc.start()
    params = load_c3d(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = sum(leaf.nbytes for layer in params.values() for leaf in layer.values())
    assert size > 2e8 and peak < size + 3.2 * params["fc6"]["kernel"].nbytes
    assert params["fc6"]["kernel"].shape == (8192, 4096) and params["fc6"]["kernel"][-1, -1] == 0.25


# ------------------------------------------------------------------------------------------------
# Reports and conversion


def test_conversion(tmp_path, capsys):
    mean = np.random.default_rng(0).uniform(80, 110, (1, 3, 16, 12, 17)).astype(np.float32)
    cube = written(tmp_path, files.blob_v10(mean), "mean")
    path = written(tmp_path, files.net(without_classifier(), files.blob_v10))
    output = str(tmp_path / "converted")
    assert commands.execute(["convert", path, "--output", output, "--mean", cube]) == 0
    printed = capsys.readouterr().out
    for line in ("Caffe v1.0", "conv1a     kernel 3×3×3×3×3", "missing: fc8", "input: BGR"):
        assert line in printed
    weights = read_weights(output)
    assert_is_c3d(weights.params, [n for n in ARRAYS if n != "fc8"])
    np.testing.assert_allclose(weights.preprocessing.mean, mean[0].mean((1, 2, 3)), rtol=1e-6)
    assert weights.preprocessing.color_order == "bgr"
    assert commands.execute(["convert", path, "--output", output]) == 1
    assert capsys.readouterr().err.startswith("Error: ")
    for wrong, message in (
        (cube, "a mean file of Caffe"),
        (str(tmp_path / "no"), "cannot be read"),
    ):
        assert commands.execute(["convert", wrong]) == 1
        assert message in capsys.readouterr().err


def test_blobs_in_many_parts_are_refused(tmp_path):
    """Each part costs memory beyond its bytes."""
    many = files.number(1, 2048) + files.data(6, b"\0" * 4) * 2048
    layer = files.data(4, b"conv1a") + files.data(6, many)
    message = error_of(written(tmp_path, files.data(1, b"c3d") + files.data(2, layer)))
    assert "more than 1024 parts" in message


def test_mean_files_are_checked(tmp_path):
    for content in (files.blob_v10(np.zeros((2, 4, 4), np.float32)), b"\x08", b"\x08\x01\x32\xff"):
        with pytest.raises(WeightsError, match="mean"):
            read_mean(written(tmp_path, content))


# ------------------------------------------------------------------------------------------------
# Bad files


def changed(name, weights=None, bias=None):
    arrays = dict(ARRAYS)
    w, b = arrays[name]
    arrays[name] = (w if weights is None else weights, b if bias is None else bias)
    return arrays


@pytest.mark.parametrize(
    "arrays,message",
    [
        (
            changed("conv3a", np.zeros((13, 5, 3, 3, 3), np.float32)),
            r"kernel of conv3a .* \(3, 3, 3, 5, 13\); after conv2a, .* must be \(3, 3, 3, 6, 13\)",
        ),
        (
            changed("conv2a", np.zeros((6, 3, 3, 3, 5), np.float32)),
            r"kernel of conv2a .* \(3, 3, 5, 3, 6\) \(T,H,W,in,out\); .* \(3, 3, 3, 3, 6\)",
        ),
        (
            changed("conv4a", bias=np.zeros(25, np.float32)),
            r"bias of conv4a .* \(25,\); .* \(26,\)",
        ),
        (
            changed("fc7", np.zeros((205, 204), np.float32)),
            r"kernel of fc7 .* \(204, 205\); after fc6, .* \(104, 205\), it must be \(205, 205\)",
        ),
        (changed("fc6", np.zeros((205, 27), np.float32)), "kernel of fc6 .* number of places"),
        (changed("fc6", np.zeros((205, 78), np.float32)), "fc6 .* 3 places"),
        (
            changed("conv1a", np.full((3, 3, 3, 3, 3), np.nan, np.float32)),
            "kernel of conv1a .* not finite",
        ),
        (changed("conv5b", np.zeros((26, 26), np.float32)), "conv5b .* must have 5 axes"),
        ({"ip1": ARRAYS["fc8"]}, "holds no layer of C3D.* it holds ip1"),
    ],
)
@pytest.mark.parametrize("form", ["caffe", "torch"])
def test_wrong_layers_are_named(arrays, message, form, tmp_path):
    import re

    if form == "caffe":
        content = files.net(arrays, files.blob_v11, 100, 1, 7)
    else:
        flat = {
            f"{n}.{leaf}": a
            for n, pair in arrays.items()
            for leaf, a in zip(("weight", "bias"), pair)
        }
        content = files.pytorch_zip(flat)
    assert re.search(message, error_of(written(tmp_path, content)))


ATTACKS = {
    "os.system": b"\x80\x02cos\nsystem\n(X\x0a\x00\x00\x00touch %sowntR.",
    "builtins.eval": b"\x80\x02cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
    "object state": b"\x80\x02ctorch.nn.modules.conv\nConv3d\n)\x81}b.",
    "INST": b"\x80\x02(ios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\no.",
    "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.",
    "reduce of a result": b"\x80\x02ccollections\nOrderedDict\n)R)R.",
    "getattr": b"\x80\x02c__builtin__\ngetattr\n(ccollections\nOrderedDict\nX\x04\x00\x00\x00copytR.",  # noqa: E501
    "extension": b"\x80\x02\x82\x01.",
    "deep key": b"\x80\x02}" + b")" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",
    "persistent id": b"\x80\x02X\x03\x00\x00\x00abcQ.",
    "huge memo": b"\x80\x02}r\xff\xff\xff\x7f0.",
    "huge text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a list": b"\x80\x02].",
    "itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "endless marks": b"\x80\x02" + b"(" * 210_000 + b".",
}


@pytest.mark.parametrize("wrap", ["zip", "legacy"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_never_runs(attack, wrap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = ATTACKS[attack]
    make = files.pytorch_zip if wrap == "zip" else files.pytorch_legacy
    tracemalloc.start()
    message = error_of(written(tmp_path, make({}, program=program)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26
    assert message and [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_plain_pickles_are_not_read(tmp_path):
    import pickle

    message = error_of(written(tmp_path, pickle.dumps({"conv1a": np.ones(3)})))
    assert "a pickle can run code" in message


def test_npz_with_objects_is_refused(tmp_path):
    content = npz({"conv1a/kernel": np.array([{"a": 1}], dtype=object)})
    assert "pickled objects" in error_of(written(tmp_path, content))


def npz_claim(header: str, data: bytes = b"") -> bytes:
    """An .npz whose array has any header."""
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv1a/kernel.npy", array)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npz_claim("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}"),
        npz_claim("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
        npz_claim("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}", b"\0" * 12),
        npz_claim("__import__('os').system('ls')"),
        npz_claim("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"\0" * 2**24),
    ],
)
def test_npz_claims_are_checked(content, tmp_path):
    tracemalloc.start()
    assert "is damaged" in error_of(written(tmp_path, content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


@pytest.mark.parametrize(
    "old,new",
    [
        (files.numbers([81, 27, 9, 3, 1]), files.numbers([81, 27, 9, 3, 2])),
        (files.integer(243), files.integer(244)),  # the storage's elements
        (files.integer(0) + files.numbers([3]), files.integer(1) + files.numbers([3])),  # offset
    ],
)
def test_tensors_stay_within_their_storage(old, new, tmp_path):
    arrays = files.named(ARRAYS, "pickle")
    good = files.state_dict_program(arrays, False)
    assert old in good
    message = error_of(
        written(tmp_path, files.pytorch_zip(arrays, program=good.replace(old, new, 1)))
    )
    assert "conv1" in message and "claims" in message


@pytest.fixture(scope="module")
def contents():
    return {form: FORMATS[form][0]() for form in ("caffe v1.0", "c3d.pickle", "zip", "npz")}


@pytest.mark.parametrize("form", ["caffe v1.0", "c3d.pickle", "zip", "npz"])
def test_truncated_files_are_named(form, contents, tmp_path):
    content = contents[form]
    for share in (0.001, 0.01, 0.3, 0.9, 0.9999):
        assert "weights" in error_of(
            written(tmp_path, content[: max(1, int(share * len(content)))])
        )
    assert "empty" in error_of(written(tmp_path, b""))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["caffe v1.0", "c3d.pickle", "zip", "npz"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
)
def test_damaged_files_give_one_sentence_or_parameters(
    contents, tmp_path_factory, form, changes, near
):
    """Bits of the head, where the structure is, or anywhere; Caffe's files have no sums."""
    data = bytearray(contents[form])
    for place, byte in changes:
        reach = min(len(data), 2000) if near else len(data)
        data[min(int(place * reach), reach - 1)] = byte
    path = written(tmp_path_factory.mktemp("damaged"), bytes(data))
    try:
        read_weights(path)
    except WeightsError as error:
        assert "\n" not in str(error) and str(error).endswith((".", ". "))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [
            b"",
            b"PK\x03\x04",
            b"\x0a\x03c3d",
            b"\x12",
            b"\x80\x02",
            files.pytorch_legacy({})[:15],
            b"\x89HDF\r\n\x1a\n",
        ]
    ),
    st.binary(max_size=300),
)
def test_random_bytes_give_one_sentence(tmp_path_factory, head, tail):
    path = written(tmp_path_factory.mktemp("random"), head + tail)
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    assert "No such file" in error_of(str(tmp_path / "nothing"))
    assert os.path.isdir(tmp_path)
