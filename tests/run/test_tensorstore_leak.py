"""What orbax asks tensorstore for while it saves: the same answers, and little that stays."""

import sys

import pytest
import tensorstore as ts

from v2v_jax.run import tensorstore_leak

FOLDER = {"driver": "file", "path": "/a/b/"}


def test_tensorstore_still_leaks():
    """If this fails, tensorstore frees what it gives away: `tensorstore_leak` can go."""
    to_json = getattr(ts.KvStore.Spec.to_json, "__wrapped__", ts.KvStore.Spec.to_json)
    (leaked,) = [value for value in to_json(ts.KvStore.Spec(FOLDER)).values() if "/" in value]
    free = {"path": "".join(["/a", "/b/"])}["path"]
    assert sys.getrefcount(leaked) == sys.getrefcount(free) + 1


@pytest.fixture
def asked():
    """`KvStore.Spec.to_json`, remembering, and the addresses that tensorstore was asked for."""
    asked = []

    def to_json(spec, include_defaults=False):
        asked.append(spec.path)
        return {"driver": "file", "path": spec.path, "defaults": include_defaults}

    return tensorstore_leak.remembering(to_json), asked


def test_each_address_is_asked_for_once(asked):
    to_json, paths = asked
    for path in ("/a/", "/b/", "/a/", "/b/"):
        spec = ts.KvStore.Spec(FOLDER | {"path": path})
        assert to_json(spec) == {"driver": "file", "path": path, "defaults": False}
    assert paths == ["/a/", "/b/"]


def test_other_questions_are_passed_on(asked):
    to_json, paths = asked
    spec = ts.KvStore.Spec(FOLDER)
    assert [to_json(spec, True)["defaults"], to_json(spec)["defaults"]] == [True, False]
    assert to_json(spec, include_defaults=True)["defaults"] and len(paths) == 3


def test_an_answer_is_the_callers_own(asked):
    to_json, _ = asked
    spec = ts.KvStore.Spec(FOLDER)
    to_json(spec)["path"] = "/another/"
    assert to_json(spec)["path"] == FOLDER["path"]


def test_only_a_few_answers_are_remembered(asked):
    to_json, paths = asked
    specs = [ts.KvStore.Spec(FOLDER | {"path": f"/{i}/"}) for i in range(100)]
    for spec in (*specs, specs[-1], specs[0]):
        to_json(spec)
    assert paths == [f"/{i}/" for i in (*range(100), 0)]


def test_answers_are_those_of_tensorstore():
    tensorstore_leak.avoid()
    tensorstore_leak.avoid()
    kinds = [FOLDER, FOLDER | {"file_io_sync": False}, {"driver": "ocdbt", "base": FOLDER}]
    for kind in (*kinds, FOLDER | {"path": "/ä 'b'/"}):
        spec = ts.KvStore.Spec(kind)
        for _ in range(2):
            assert spec.to_json() == ts.KvStore.Spec.to_json.__wrapped__(spec)
    assert not hasattr(ts.KvStore.Spec.to_json.__wrapped__, "__wrapped__")  # replaced once


def test_a_library_without_it_is_left_alone(monkeypatch):
    """As older or newer ones may be: nothing is replaced, and nothing is raised."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    monkeypatch.delattr(tensorstore_utils, "get_tensorstore_raw_bytes", raising=False)
    monkeypatch.setattr(tensorstore_leak.ts, "KvStore", object())
    tensorstore_leak.avoid.__wrapped__()
    assert not hasattr(tensorstore_utils, "get_tensorstore_raw_bytes")
    monkeypatch.setitem(sys.modules, tensorstore_utils.__name__, None)
    tensorstore_leak.avoid.__wrapped__()
