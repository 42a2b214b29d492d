"""v2v train --print_config: the whole configuration, and nothing else."""

import json
import os

import pytest

from experiments import configuration_page
from v2v_jax.cli import commands, config_options
from v2v_jax.run import config_fields


@pytest.fixture
def printed(capsys, tmp_path, monkeypatch):
    """What the command prints; it writes nothing."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, status: int = 0) -> str:
        assert commands.execute(["train", *arguments]) == status
        assert not os.listdir(tmp_path)
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def values_of(text: str) -> dict:
    """field → value of the lines that are no comments."""
    lines = [line.partition(": ") for line in text.splitlines() if line and line[0] != "#"]
    return {key: json.loads(rest.partition("  # ")[0]) for key, _, rest in lines}


@pytest.mark.parametrize("option", ["--print_config", "--print-config"])
def test_all_fields_with_their_values(printed, option):
    text = printed("--config=seg:demo", "--config.batch_size=6", option)
    config = config_options.read("seg:demo", ["--config.batch_size=6"])
    expected = json.loads(json.dumps(configuration_page.flat(config)))
    assert values_of(text) == expected and expected["batch_size"] == 6
    assert "the rate rises for 120" in text and "# clips" in text
    order = [key for group in config_fields.FIELDS.values() for key in group]
    keys = [key for key in values_of(text) if key in order]
    assert keys == sorted(keys, key=order.index)


def test_a_value_that_cannot_be_used_is_an_error(printed):
    message = printed("--config=seg", "--config.batch_size=0", "--print_config", status=1)
    assert message == "Error: batch_size is 0; it must be at least 1.\n"
    message = printed("--config=seg", "--config.bach_size=4", "--print_config", status=2)
    assert "did you mean batch_size?" in message


def test_fields_of_ones_own_are_printed_too():
    config = config_options.read("depth:dataset=folder").unlock()
    config.mine = {"strength": 2, "where": ("left", "right")}
    lines = config_options.listing(config).splitlines()
    assert lines[-3:] == ["# Others", "mine.strength: 2", 'mine.where: ["left", "right"]']
    assert 'data.root: "data/videos"' in lines
