"""The style sheet of the report's page: light and dark, narrow and wide, printable."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5a6068; --paper: #ffffff;
  --panel: #f5f6f8; --line: #d4d8de; --hit: #6ea0ff; --miss: #ff9d5c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a7adb6; --paper: #16181c;
  --panel: #1f2227; --line: #3a3f47; --hit: #2f62c4; --miss: #a8531b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.8rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line);
  font-size: 1.3rem; }
h3 { margin: 0 0 .5rem; font-size: 1.05rem; overflow-wrap: anywhere; }
a { color: inherit; }
header p, caption, figcaption, dt, .note { color: var(--soft); }
.note { max-width: 46rem; font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .5rem 0 0; padding: 0;
  list-style: none; }
.scroll { overflow-x: auto; margin-bottom: 1.25rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .4rem; text-align: left; font-size: .9rem; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: 600; }
tbody th, thead th:first-child { text-align: left; }
tbody th { font-weight: 400; }
.matrix td, .matrix th { padding: .35rem .4rem; }
.matrix td { min-width: 3.1rem; border: 1px solid var(--paper); }
.matrix thead { font-size: .8rem; line-height: 1.25; vertical-align: bottom; }
.matrix tbody th { min-width: 9rem; font-size: .9rem; line-height: 1.25; }
.matrix .none { color: var(--soft); text-align: left; }
.chip { display: inline-block; width: .9em; height: .9em; margin-right: .5em;
  border: 1px solid var(--soft); vertical-align: -.08em; }
figure { margin: 0 0 1rem; }
figcaption { font-size: .9rem; }
svg, video, img { max-width: 100%; height: auto; }
article { margin: 1.25rem 0; padding: 1rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--panel); }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.75rem; margin: 0 0 .75rem; }
dt { font-size: .85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
dl div:first-child dd { font-weight: 600; }
.clip { display: inline-block; max-width: 100%; }
.clip video, .clip img { display: block; width: auto; }
.heads { display: grid; align-items: end; padding-bottom: .25rem; font-size: .85rem;
  line-height: 1.25; text-align: center; overflow-wrap: anywhere; }
.legend { display: block; background: #ffffff; border-radius: .25rem; }
pre { overflow-x: auto; padding: 1rem; background: var(--panel); border-radius: .5rem;
  font-size: .85rem; }
"""
