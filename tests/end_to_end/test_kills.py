"""The harness of `tests.kills`, with a kill for each command."""

import subprocess
import sys

import pytest

from tests.kills import TARGETS
from tests.tiny import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_killed_command_that_is_run_again_has_lost_nothing(tmp_path, name):
    command = [sys.executable, "-m", "tests.kills", "--kills=1", f"--workdir={tmp_path}"]
    done = subprocess.run(
        [*command, f"--only={name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name}: 1 kills" in done.stdout and "all as it was" in done.stdout
