"""Callbacks: what they are told, when, and what becomes of their errors; TensorBoard's files."""

import io
import json
import sys
import types

import numpy as np
import pytest
from absl import logging
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

import v2v_jax
from tests.tiny import ROOT, SMALLEST, read_metrics, tiny_config
from v2v_jax.errors import ConfigError, Stopped
from v2v_jax.evaluation.evaluator import Evaluator
from v2v_jax.training import loop, training_run
from v2v_jax.training.callbacks import Callback, Callbacks
from v2v_jax.training.preemption import StopRequest
from v2v_jax.training.tensorboard import TensorBoard

pytestmark = pytest.mark.usefixtures("compilation_cache")


class Recording(Callback):
    """Notes every call; raises `error` at one of them."""

    def __init__(self, notes=None, error_at=None):
        self.notes, self._error_at = [] if notes is None else notes, error_at

    def _note(self, name, *values):
        self.notes.append((name, *values))
        if name == self._error_at:
            raise ZeroDivisionError(name)

    def start(self, config, workdir, first_step):
        assert config.task == "segmentation" and (workdir / "config.json").is_file()
        self._note("start", first_step)

    def logged(self, step, values):
        self._note("logged", step, dict(values))

    def evaluated(self, step, values, pictures):
        self._note("evaluated", step, dict(values), dict(pictures))

    def end(self, error):
        self._note("end", error)


def order(notes):
    return [note[:2] for note in notes]


def lines(workdir, prefix):
    """step → name → value of the lines of metrics.jsonl that have the prefix."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: {k.removeprefix(prefix): v for k, v in line.items() if k.startswith(prefix)}
        for line in found
        if any(key.startswith(prefix) for key in line)
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory, compilation_cache):
    """Six steps, stopped after the fifth and resumed: the folder, and the notes of either part."""
    config = tiny_config("seg", SMALLEST, log_every=2, num_pictures=2)
    workdir, parts = tmp_path_factory.mktemp("callbacks") / "run", (Recording(), Recording())
    add, part = training_run.Monitor.add, iter(parts)

    def noting(monitor, step, metrics):
        current.notes.append(("dispatched", step))
        add(monitor, step, metrics)

    with pytest.MonkeyPatch.context() as patch:
        current = next(part)
        patch.setattr(training_run.Monitor, "add", noting)
        patch.setattr(StopRequest, "reached", lambda self: ("logged", 4) in order(parts[0].notes))
        with pytest.raises(Stopped):
            v2v_jax.train(config, workdir, callbacks=[parts[0]])
    with pytest.MonkeyPatch.context() as patch:
        current = next(part)
        patch.setattr(training_run.Monitor, "add", noting)
        values = v2v_jax.train(config, workdir, [parts[1]])
    return config, workdir, [part.notes for part in parts], values


def test_what_is_called_when(run):
    """Of a step when the next one has been given to the device, or before an evaluation."""
    _, _, (first, second), _ = run
    assert order(first[:-1]) == [
        *(("start", 0), ("dispatched", 1), ("dispatched", 2), ("dispatched", 3), ("logged", 2)),
        *(("evaluated", 3), ("dispatched", 4), ("dispatched", 5), ("logged", 4)),
    ]
    assert first[-1][0] == "end" and isinstance(first[-1][1], Stopped)
    assert order(second) == [
        ("start", 5),
        *(("dispatched", 6), ("logged", 6), ("evaluated", 6), ("end", None)),
    ]


def test_the_values_are_those_of_the_log(run):
    config, workdir, parts, values = run
    for name, prefix in (("logged", "train/"), ("evaluated", "eval/")):
        told = {note[1]: note[2] for notes in parts for note in notes if note[0] == name}
        finite = {s: {k: v for k, v in m.items() if np.isfinite(v)} for s, m in told.items()}
        logged = {
            s: {k: v for k, v in m.items() if v is not None}
            for s, m in lines(workdir, prefix).items()
        }
        assert finite == logged
    last = parts[1][-2]
    assert last[2] == values and {"accuracy", "baseline_accuracy"} <= values.keys()
    assert {"loss", "accuracy", "learning_rate", "gradient_norm"} <= parts[1][-3][2].keys()


def test_pictures_are_of_the_same_clips_at_every_evaluation(run):
    config, _, (first, second), _ = run
    early, late = (
        next(note[3] for note in notes if note[0] == "evaluated") for notes in (first, second)
    )
    assert list(early) == list(late) and len(early) == config.num_pictures == 2
    for name, picture in early.items():
        assert picture.dtype == np.uint8 and picture.shape == late[name].shape
        assert picture.shape[2] == 3 and len(picture) > 4 * 32  # four frames
    assert any((early[name] != late[name]).any() for name in early)  # it has learned since


@pytest.mark.parametrize("place", ["start", "evaluated", "end"])
def test_an_error_of_a_callback_is_the_runs(tmp_path, monkeypatch, place):
    """It passes as it is; other callbacks are ended, and what was saved stays."""
    monkeypatch.setattr(Evaluator, "pictures", lambda *_: {})
    config = tiny_config("seg", SMALLEST, num_steps=2, eval_every=1)
    notes = []
    callbacks = [Recording(notes), Recording(error_at=place)]
    with pytest.raises(ZeroDivisionError, match=place):
        v2v_jax.train(config, tmp_path, callbacks)
    assert notes[-1][0] == "end"
    assert isinstance(notes[-1][1], ZeroDivisionError)
    saved = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name[0] != "."}
    assert saved == {"start": set(), "evaluated": {"1"}, "end": {"1", "2"}}[place]


def test_of_several_processes_the_first_calls_them_unless_they_want_all():
    class Everywhere(Recording):
        every_process = True

        def start(self, config, workdir, first_step):
            self._note("start", first_step)

    here, everywhere = Recording(), Everywhere()
    with Callbacks((here, everywhere), first_process=False) as told:
        told.start(None, None, 0)
        told.logged(1, {})
        told.evaluated(1, {}, {})
    assert here.notes == []
    assert [note[0] for note in everywhere.notes] == ["start", "logged", "evaluated", "end"]


def test_what_end_returns_hides_no_error():
    class Pleased(Recording):
        def end(self, error):
            super().end(error)
            return True

    first, last = Pleased(), Pleased()
    with pytest.raises(ZeroDivisionError), Callbacks((first, last)) as told:
        for one in (first, last):
            one.start = lambda *_: None
        told.start(None, None, 0)
        raise ZeroDivisionError
    for one in (first, last):
        assert [(name, type(error)) for name, error in one.notes] == [("end", ZeroDivisionError)]


def test_a_run_by_a_recipes_name_and_what_is_no_configuration(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "Setup", lambda config: seen.append(config) or config)
    monkeypatch.setattr(loop, "train", lambda *args: {"accuracy": 1.0})
    assert v2v_jax.train("seg:demo", tmp_path) == {"accuracy": 1.0}
    assert seen[0].to_dict() == v2v_jax.read_config("seg:demo").to_dict() and seen[0].is_locked
    with pytest.raises(ConfigError, match="Recipe sge does not exist; did you mean seg"):
        v2v_jax.train("sge", tmp_path)
    with pytest.raises(ConfigError, match='config is dict; expected a ConfigDict.*"seg:demo"'):
        v2v_jax.train({"task": "flow"}, tmp_path)


def test_the_guides_example_for_another_service(tmp_path, monkeypatch):
    """Its code as it stands, with a stand-in for the service and for training."""
    calls = []

    def train(config, workdir, callbacks):
        with Callbacks(callbacks) as told:
            for first_step in (0, 4):
                told.start(v2v_jax.read_config(config), tmp_path, first_step)
            told.logged(5, {"loss": 0.5})
            told.evaluated(6, {"accuracy": 0.7}, {"clip": np.zeros((2, 3, 3), np.uint8)})
            raise Stopped("by SIGTERM")

    class Service(types.ModuleType):
        def init(self, **options):
            calls.append(("init", options["id"], options["config"]["task"]))
            return self

        def Image(self, picture, caption):
            return caption, picture.shape

    service = Service("wandb")
    for name in ("log", "define_metric", "finish"):
        note = lambda *values, name=name, **options: calls.append((name, *values, options))
        setattr(service, name, note)
    monkeypatch.setitem(sys.modules, "wandb", service)
    monkeypatch.setattr(v2v_jax, "train", train, raising=False)
    text = (ROOT / "docs" / "guides" / "following_a_run.md").read_text()
    code = text[text.index("import uuid") :].partition("```")[0]
    with pytest.raises(Stopped):
        exec(code, {})
    inits = [call for call in calls if call[0] == "init"]
    assert inits[0] == inits[1] and len(inits[0][1]) == 8 and inits[0][2] == "segmentation"
    assert [call[1] for call in calls if call[0] == "log"] == [
        {"step": 5, "train/loss": 0.5},
        {"step": 6, "eval/accuracy": 0.7, "examples": [("clip", (2, 3, 3))]},
    ]
    assert calls[-1] == ("finish", {"exit_code": 1})


# ------------------------------------------------------------------------------------------------
# TensorBoard


def test_a_full_disk_ends_the_curves_and_not_the_run(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "error", lambda text, *values: said.append(text % values))
    board = TensorBoard()
    board.start(tiny_config("seg"), tmp_path, 0)

    def full(event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(board._writer, "write_event", full)
    for step in (1, 2):
        board.logged(step, {"loss": 0.5})
    board.end(None)
    (text,) = said
    assert f"Cannot write to {tmp_path / 'tensorboard'} (No space left on device); its" in text


def events(folder):
    """All events; a record is its length (8 bytes), a checksum (4), an Event, a checksum (4)."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name.rpartition(".")[2]):
        data, position = path.read_bytes(), 0
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            yield Event.FromString(data[position + 12 : position + 12 + length])
            position += length + 16


def test_tensorboard_has_metrics_rate_examples_and_configuration(run):
    config, workdir, (first, second), _ = run
    scalars, pictures, texts, starts = {}, {}, [], []
    for event in events(workdir / "tensorboard"):
        if event.session_log.status == SessionLog.START:
            starts.append(event.step)
        for value in event.summary.value:
            if value.HasField("image"):
                pictures[value.tag, event.step] = (value.metadata.display_name, value.image)
            elif value.HasField("simple_value"):
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
            else:
                texts.append((event.step, value.tag, value.tensor.string_val[0].decode()))
    assert starts == [1, 6]  # what an earlier file says of these steps is dropped
    for name in ("train/loss", "train/accuracy", "train/learning_rate", "eval/accuracy"):
        assert scalars[name] == pytest.approx(read_metrics(workdir, name), rel=1e-6), name
    assert scalars["train/learning_rate"] == pytest.approx({2: 5e-3, 4: 5e-3, 6: 5e-3})
    told = {note[1]: note[3] for note in first + second if note[0] == "evaluated"}
    assert len(pictures) == 4
    for (tag, step), (name, image) in pictures.items():
        drawn = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        np.testing.assert_array_equal(drawn, told[step][name])
        assert tag in ("examples/0", "examples/1")
    assert [text[:2] for text in texts] == [(0, "config/text_summary"), (5, "config/text_summary")]
    for _, _, text in texts:
        assert all(line.startswith("    ") for line in text.splitlines())
        stored = json.loads(text)
        assert stored["optimizer"] == json.loads(json.dumps(config.optimizer.to_dict()))
