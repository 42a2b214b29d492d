"""Fuzzes one reader, guided by coverage, until told to stop or something breaks.

    pip install -c constraints.txt -e '.[test,fuzz]'
    python -m tests.fuzz.run video -max_total_time=60

The first argument names a target of `tests/fuzz/readers.py`, or is `all` (each for the time
given); the others are libFuzzer's. Ends with an error, and leaves crash-…, when a reader raises
what it does not document, takes over 2 GB, or over 30 s for one input.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["v2v_jax", "tests.fuzz", "PIL"]):
    from tests.fuzz.readers import TARGETS, run_once


def main() -> None:
    """Runs the target that the command line names."""
    name, *options = sys.argv[1:] or ["--help"]
    if name == "all":
        broken = []
        for each in TARGETS:
            print(f"== {each}", flush=True)
            command = [sys.executable, "-m", "tests.fuzz.run", each, *options]
            if subprocess.run(command).returncode:
                broken.append(each)
        if broken:
            sys.exit(f"Broken: {', '.join(broken)}")
        return
    if name not in TARGETS:
        sys.exit(f"{__doc__}\nTargets: all, {', '.join(TARGETS)}")
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        corpus, work = pathlib.Path(folder, "corpus"), pathlib.Path(folder, "work")
        corpus.mkdir()
        work.mkdir()
        (seeds := pathlib.Path(folder, "seeds")).mkdir()
        for index, seed in enumerate(target.seeds(seeds)):
            (corpus / str(index)).write_bytes(seed)
        limits = ["-timeout=30", "-rss_limit_mb=2048", "-max_len=65536"]
        arguments = [sys.argv[0], *limits, *options, str(corpus)]
        atheris.Setup(arguments, lambda data: run_once(target, data, work))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
