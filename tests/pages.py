"""Pages of HTML: parsed strictly, and what holds of all of them."""

from __future__ import annotations

import html.parser
import re

ALWAYS = ("Metrics", "Learning curves", "Clips", "Configuration")
_VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Parses a page strictly: every element is closed in order; collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.tables, self.texts = [], [], [], {}
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def check(text: str, sections: tuple[str, ...] = ALWAYS) -> Page:
    """What holds of every page: sections, no outside resource, unique ids, names for everything."""
    assert text.startswith("<!DOCTYPE html>")
    assert "http:" not in text and "https:" not in text and "//" not in re.sub(
        r"base64,[A-Za-z0-9+/=]*", "", text
    )  # fmt: skip
    parsed = Page(text)
    assert tuple(t for t in parsed.texts["h2"] if t) == sections
    assert tuple(t for t in parsed.texts["a"] if t) == sections  # a link to each, and no other
    for _, attributes in parsed.elements:
        for name in ("src", "href", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes[name][:80]
        assert attributes.get("style", "").count("url(") == 0
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert all("alt" in image for image in parsed.all("img"))  # empty where the text is beside it
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in parsed.all("svg"))
    assert all(video.get("aria-label") for video in parsed.all("video"))
    assert len(parsed.all("caption")) == len(parsed.tables)
    return parsed
