"""A picture of a page by a browser, where one is installed."""

import shutil

import numpy as np
import pytest
from PIL import Image

from experiments import report_picture

PAGE = """<!DOCTYPE html>
<style>:root { color-scheme: light dark } body { margin: 0 }
@media (prefers-color-scheme: dark) { p { color: red } }</style>
<p>Text</p>
"""


def test_without_a_browser_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert report_picture.main([str(tmp_path / "a.html"), f"--output={tmp_path / 'a.png'}"]) == 1
    assert "No browser is installed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, report_picture._BROWSERS)), reason="no browser is installed"
)
def test_a_page_light_and_dark_and_narrow(tmp_path):
    (tmp_path / "a.html").write_text(PAGE)
    pictures = {}
    for scheme, more in {"light": [], "dark": ["--dark"], "narrow": ["--width=300"]}.items():
        output = tmp_path / f"{scheme}.png"
        options = [str(tmp_path / "a.html"), f"--output={output}", "--height=600", *more]
        assert report_picture.main(options) == 0
        pictures[scheme] = np.asarray(Image.open(output)).astype(int)
    assert pictures["light"].shape == (600, 900, 3) and pictures["narrow"].shape == (600, 300, 3)
    assert pictures["light"].mean() > 240 and pictures["light"].min() < 60
    assert pictures["dark"].mean() < 60 and np.ptp(pictures["dark"], axis=-1).max() > 100  # red
