"""Weight files that were made to run code, or to reach other files: reading them does neither.

Their payload makes a file called `owned`. That the pickles would do it is tested, too.
"""

import contextlib
import io
import pickle
import re
import struct
import sys
import warnings
import zipfile

import numpy as np
import pytest

from tests import weight_files as files
from tests.tiny import ROOT
from v2v_jax.errors import WeightsError
from v2v_jax.pretrained import read_weights

ARRAYS = files.caffe_arrays()
SHELL, PYTHON = "touch owned", "open('owned', 'w').close()"

# ------------------------------------------------------------------------------------------------
# Pickles


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


SYSTEM, COMMAND = name("os", "system"), files.text(SHELL)
MAP = name("builtins", "map") + b"(" + SYSTEM + b"(" + COMMAND + b"lt\x81"  # NEWOBJ
IMPORT_OS = call(name("importlib", "import_module"), files.text("os"))
INNER = b"\x80\x02" + call(SYSTEM, COMMAND) + b"."

PICKLES = {
    "os.system": call(SYSTEM, COMMAND),
    "protocol 0": b"cposix\nsystem\n(S'touch owned'\ntR",
    "STACK_GLOBAL": b"\x8c\x05posix\x8c\x06system\x93" + COMMAND + b"\x85R",
    "INST": b"(" + COMMAND + b"ios\nsystem\n",
    "OBJ": b"(" + SYSTEM + COMMAND + b"o",
    "NEWOBJ": name("builtins", "bytes") + b"(" + MAP + b"t\x81",
    "NEWOBJ_EX": name("builtins", "bytes") + b"(" + MAP + b"t}\x92",
    "eval": call(name("builtins", "eval"), files.text(PYTHON)),
    "exec": call(name("builtins", "exec"), files.text(PYTHON)),
    "Python 2's eval": call(name("__builtin__", "eval"), files.text(PYTHON)),
    "subprocess": call(
        name("subprocess", "check_call"), b"(" + files.text("touch") + files.text("owned") + b"l"
    ),
    "timeit": call(name("timeit", "timeit"), files.text("pass"), files.text(PYTHON)),
    "open": call(name("io", "open"), files.text("owned"), files.text("w")),
    "partial": call(call(name("functools", "partial"), SYSTEM, COMMAND)),
    "getattr": call(call(name("builtins", "getattr"), IMPORT_OS, files.text("system")), COMMAND),
    "methodcaller": call(
        call(name("operator", "methodcaller"), files.text("system"), COMMAND), IMPORT_OS
    ),
    "pickle in a pickle": call(
        name("pickle", "loads"),
        b"C" + bytes([len(INNER)]) + INNER,  # SHORT_BINBYTES
    ),
    "from the memo": SYSTEM + b"q\x000h\x00" + b"(" + COMMAND + b"tR",
    "a value of a state_dict": (
        b"ccollections\nOrderedDict\n)R("
        + files.text("conv1.weight")
        + call(SYSTEM, COMMAND)
        + b"u"
    ),
    "a key of a state_dict": (
        b"ccollections\nOrderedDict\n)R(" + call(SYSTEM, COMMAND) + files.text("x") + b"u"
    ),
    "attributes of a state_dict": b"ccollections\nOrderedDict\n)R" + call(SYSTEM, COMMAND) + b"0}b",
    "before a state_dict": call(SYSTEM, COMMAND) + b"0ccollections\nOrderedDict\n)R",
}
PROGRAMS = {key: b"\x80\x02" + program + b"." for key, program in PICKLES.items()}


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def npz(header: str, data: bytes = b"") -> bytes:
    return archive({"conv1a/kernel.npy": npy(header, data)})


def objects(program: bytes) -> bytes:
    return npz("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", program)


CONTAINERS = {
    "PyTorch archive": lambda program: files.pytorch_zip({}, program=program),
    "PyTorch before 1.6": lambda program: files.pytorch_legacy({}, program=program),
    "bare pickle": lambda program: program,
    "npz": objects,
}

# ------------------------------------------------------------------------------------------------
# Archives


def archive(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for member, data in members.items():
            opened.writestr(member, data)
        for member, target in (links or {}).items():
            info = zipfile.ZipInfo(member)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            opened.writestr(info, target)
    return file.getvalue()


def pytorch_with(extra: dict[str, bytes]) -> bytes:
    """A sound PyTorch archive, and more in it."""
    file = io.BytesIO(files.pytorch_zip(files.named(ARRAYS, "pickle")))
    with zipfile.ZipFile(file, "a") as opened:
        for member, data in extra.items():
            opened.writestr(member, data)
    return file.getvalue()


SCRIPT = f"import os\nos.system({SHELL!r})\n".encode()
ATTACK = PROGRAMS["os.system"]
ARCHIVES = {
    "a field of objects": npz(
        "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}", ATTACK
    ),
    "a header that is a call": npz(f"__import__('os').system({SHELL!r})"),
    "a shape that is a call": npz(
        "{'descr': '<f4', 'fortran_order': False, "
        f"'shape': (__import__('os').system({SHELL!r}),)}}"
    ),
    "a type that is a call": npz(
        f"{{'descr': __import__('os').system({SHELL!r}), 'fortran_order': False, 'shape': (1,)}}"
    ),
    "a member above": archive({"../owned": b"x", "../conv1a/kernel.npy": npy("{}")}),
    "a member at the root": archive({"/tmp/v2v_owned": b"x"}),
    "a member that is a link": archive({}, {"conv1a/kernel.npy": "/etc/hostname"}),
    "data.pkl that is a link": archive({}, {"c3d/data.pkl": "/etc/hostname"}),
    "a script beside": pytorch_with({"c3d/setup.py": SCRIPT, "__main__.py": SCRIPT}),
    "TorchScript": pytorch_with({"c3d/constants.pkl": ATTACK, "c3d/code/__torch__.py": SCRIPT}),
    "Keras 3 with a Lambda": archive(
        {"config.json": b'{"class_name": "Lambda", "config": {"function": "4wAAAA=="}}'}
    ),
    "members that are pickles": archive({"conv1a/kernel.npy": ATTACK, "conv1a/bias.npy": ATTACK}),
}


def two_programs() -> bytes:
    """A sound data.pkl, and after it one of the same name, which archives then mean."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate name")
        return pytorch_with({"c3d/data.pkl": ATTACK})


# ------------------------------------------------------------------------------------------------
# Caffe


def caffe_with(layer: bytes) -> bytes:
    """A sound model of v1.1, and a layer more."""
    return files.net(ARRAYS, files.blob_v11, 100, 1, 7) + files.data(100, layer)


def python_layer(module: str, attribute: str, argument: str) -> bytes:
    """A layer of the type Python: Caffe imports the module and calls what is named."""
    param = files.data(1, module.encode()) + files.data(2, attribute.encode())
    param += files.data(3, argument.encode())
    return files.data(1, b"evil") + files.data(2, b"Python") + files.data(130, param)


CAFFE = {
    "a layer of Python": caffe_with(python_layer("os", "system", SHELL)),
    "a layer that evaluates": caffe_with(python_layer("builtins", "eval", PYTHON)),
    "a name that is a command": caffe_with(
        files.data(1, f"$({SHELL})`{SHELL}`".encode()) + files.data(7, files.blob_v11(np.ones(1)))
    ),
    "a prototxt": f'layer {{ type: "Python" python_param {{ module: "os" }} }} # {SHELL}'.encode(),
}

# ------------------------------------------------------------------------------------------------
# HDF5; each is given the file, with the dataset's name, and a folder beside it


def _external_link(h5py, file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["kernel"] = np.full((3, 3, 3, 3, 3), 7, np.float32)
    file["conv1a/kernel"] = h5py.ExternalLink(str(folder / "other.h5"), "/kernel")


def _external_storage(h5py, file, folder):
    (folder / "other").write_bytes(bytes(972))
    file.create_dataset(
        "conv1a/kernel", (3, 3, 3, 3, 3), "f4", external=[(str(folder / "other"), 0, 972)]
    )


def _virtual(h5py, file, folder):
    layout = h5py.VirtualLayout((3, 3, 3, 3, 3), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (3, 3, 3, 3, 3))
    file.create_virtual_dataset("conv1a/kernel", layout)


def _plugin(h5py, file, folder):
    """Of a filter that HDF5 would load from a shared library."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((3, 3, 3, 3, 3))
    properties.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((3, 3, 3, 3, 3))
    group = file.create_group("conv1a")
    dataset = h5py.h5d.create(group.id, b"kernel", h5py.h5t.IEEE_F32LE, space, properties)
    dataset.write_direct_chunk((0,) * 5, bytes(972))


def _lambda(h5py, file, folder):
    file.attrs["model_config"] = '{"class_name": "Lambda", "config": {"function": ["4wAAAA=="]}}'
    file["conv1a/kernel"] = np.frombuffer(ATTACK, np.uint8)


def _objects(h5py, file, folder):
    file["conv1a/kernel"] = np.void(ATTACK)
    file["conv1a"].attrs["pickle"] = np.void(ATTACK)


HDF5 = {
    "a link to another file": _external_link,
    "numbers in another file": _external_storage,
    "a view of another file": _virtual,
    "a filter of a library": _plugin,
    "a Lambda of Keras": _lambda,
    "pickles as bytes": _objects,
}

FILES = {
    **{f"{c}: {p}": make(PROGRAMS[p]) for c, make in CONTAINERS.items() for p in PROGRAMS},
    **{f"archive: {key}": content for key, content in ARCHIVES.items()},
    "archive: two programs of one name": two_programs(),
    **{f"Caffe: {key}": content for key, content in CAFFE.items()},
    **{f"HDF5: {key}": write for key, write in HDF5.items()},
}

# ------------------------------------------------------------------------------------------------
# What Python tells its auditors

_RUNS = (
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen"),
    *("pickle.find_class", "ctypes.dlopen", "socket.connect", "webbrowser.open"),
    *("os.symlink", "os.link", "os.mkdir", "os.rename", "os.remove", "shutil.unpack_archive"),
)
_seen: list[str] | None = None  # while somebody listens


def _listen(event: str, arguments: tuple) -> None:
    if _seen is None:
        return
    if event in _RUNS:
        _seen.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        _seen.append(f"open {arguments}")


@contextlib.contextmanager
def listening():
    """Yields a list of all that runs, is written or connected to."""
    global _seen
    if not getattr(sys, "_v2v_tests_listen", False):  # an auditor cannot be taken back
        sys._v2v_tests_listen = True
        sys.addaudithook(_listen)
    _seen = found = []
    try:
        yield found
    finally:
        _seen = None


@pytest.mark.parametrize("key", PROGRAMS)
def test_the_pickles_are_malicious(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with listening() as seen, contextlib.suppress(Exception):
        pickle.loads(PROGRAMS[key])
    assert (tmp_path / "owned").exists() and any("pickle.find_class" in event for event in seen)


@pytest.mark.parametrize("key", FILES)
def test_reading_runs_nothing_and_writes_nothing(key, tmp_path, monkeypatch):
    """One sentence, or weights where what is malicious is passed over."""
    folder, beside = tmp_path / "here", tmp_path / "beside"
    folder.mkdir(), beside.mkdir()
    monkeypatch.chdir(folder)
    content = FILES[key]
    if isinstance(content, bytes):
        (folder / "weights").write_bytes(content)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(folder / "weights", "w") as file:
            content(h5py, file, beside)
            file["conv1a/bias"] = np.zeros(3, np.float32)
    before = sorted(tmp_path.rglob("*"))
    with listening() as seen:
        try:
            weights = read_weights(str(folder / "weights"))
        except WeightsError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            assert "plugin" not in str(error)  # HDF5 looked for a library
        else:
            assert key.startswith(("Caffe", "archive"))
            for layer, (kernel, _) in ARRAYS.items():  # what it is beside the attack
                assert weights.params[layer]["kernel"].size == kernel.size
    assert not seen
    assert sorted(tmp_path.rglob("*")) == before


def test_their_number_is_the_page_s():
    page = (ROOT / "docs" / "reference" / "reliability.md").read_text()
    assert re.findall(r"(\d+) malicious\s+weight\s+files", page) == [str(len(FILES))]
