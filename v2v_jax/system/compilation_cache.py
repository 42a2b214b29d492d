"""Keeps compiled programs between runs, so that only the first one waits for the compiler."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

import jax
from absl import logging


def enable() -> pathlib.Path | None:
    """Switches on JAX's persistent compilation cache, in a folder of the user's cache.

    The folder is $XDG_CACHE_HOME/v2v_jax/compiled/MACHINE (~/.cache where that is not set), or what
    JAX_COMPILATION_CACHE_DIR says; an empty JAX_COMPILATION_CACHE_DIR switches it off. MACHINE
    stands for the processor's kind and features: programs compiled for one processor may crash on
    another that shares the home folder. JAX's own keys cover its version, the accelerator and the
    options.

    Returns:
      The folder, or None where there is no cache: switched off, or the folder cannot be written.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is None:
        try:
            root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        except RuntimeError:  # no HOME, and a user whom the system does not know, as in containers
            logging.warning(
                "Compiled programs are not kept: there is no home folder; name another one by "
                "JAX_COMPILATION_CACHE_DIR."
            )
            return None
        folder = pathlib.Path(root) / "v2v_jax" / "compiled" / _machine()
    elif chosen:
        folder = pathlib.Path(chosen)
    else:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is read-only")
    except OSError as error:
        logging.warning("Compiled programs are not kept: %s.", error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def preparing(what: str) -> str:
    """What to say while a program is compiled, or read from the cache: nobody knows beforehand."""
    kept = "; kept for next time" if jax.config.jax_compilation_cache_dir else ""
    return f"Preparing the {what} (compiled once, up to a minute{kept})"


def _machine() -> str:
    """Processor architecture and a hash of its features."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()}-{platform.processor()}".replace(" ", "_").replace("/", "_")
    features = sorted(
        {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    )
    return f"{platform.machine()}-{hashlib.sha256(repr(features).encode()).hexdigest()[:12]}"
