"""Where the host's time goes: processor time by process, samples of threads."""

import subprocess
import sys
import threading

from benchmarks.host_time import Sampler, processor_time

BURN = "import time\nwhile time.process_time() < 0.4: pass\nprint(0, flush=True)\ninput()"


def test_processor_time_of_this_process_and_of_others():
    """Another one takes 0.4 s, and is counted while it is alive and when it has ended."""
    before = processor_time()
    process = subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    alive = processor_time().since(before)
    process.communicate(b"\n")
    ended = processor_time().since(before)
    assert 0.35 < alive.others < ended.others + 0.05 and ended.others < 1.0
    assert 0 <= alive.here < 0.2


def burn(until: threading.Event) -> None:
    while not until.is_set():
        pass


def test_samples_say_where_threads_stand():
    """One thread computes, and one waits for it, which does not count."""
    until = threading.Event()
    waiting = threading.Thread(target=until.wait)
    computing = threading.Thread(target=burn, args=(until,))
    with Sampler() as sampler:
        waiting.start()
        computing.start()
        computing.join(0.5)
        until.set()
    result = sampler.result()
    assert result["samples"] > 5 and result["threads"] < 1.2
    assert any("test_host_time.py" in line and "burn" in line for _, line in result["lines"])
    assert not any("wait" in line for _, line in result["lines"])
    assert result["late_ms"] > 0
    assert result["lines"][0][1] in sampler.text()
