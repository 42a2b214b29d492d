"""A task owns itself: no module outside of tasks/ knows a task by its name."""

import ast
from collections.abc import Iterator

import pytest

from tests.tiny import ROOT
from v2v_jax.datasets import FIELDS
from v2v_jax.tasks import TASKS

PACKAGE = ROOT / "v2v_jax"
BUILT_IN = {name: kind for name, kind in TASKS.items() if kind.__module__.startswith("v2v_jax.")}
# Names of tasks that are names of fields, too ("flow", "depth"): as fields they may stand anywhere,
# as tasks nowhere. The others may not stand in the package at all.
ALSO_FIELDS = set(BUILT_IN) & set(FIELDS)
LOOKING_UP = ("get", "pop", "index", "count", "startswith", "endswith", "__eq__")
CLASSES = {kind.__name__ for kind in BUILT_IN.values()}


def known_tasks(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, code) of everything that treats one task in another way than the rest."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in set(BUILT_IN) - ALSO_FIELDS:
            yield node.lineno, repr(node.value)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = {alias.name.rpartition(".")[2] for alias in node.names}
            if names & CLASSES:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Attribute) and node.attr in CLASSES:
            yield node.lineno, ast.unparse(node)
        elif (pair := of_task(node)) and any(names_task(part) for part in pair):
            yield node.lineno, ast.unparse(node)


def of_task(node: ast.AST) -> list[ast.AST]:
    """The parts of a comparison, choice or look-up in which something is called a task."""
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.Match):
        parts = [node.subject, *(case.pattern for case in node.cases)]
    elif isinstance(node, ast.Subscript):
        parts = [node.value, node.slice]
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in LOOKING_UP:
        parts = [node.func, *node.args]
    else:
        return []
    return parts if any("task" in ast.unparse(part).lower() for part in parts) else []


def names_task(part: ast.AST) -> bool:
    return any(isinstance(n, ast.Constant) and n.value in BUILT_IN for n in ast.walk(part))


def test_no_module_outside_of_tasks_knows_a_task():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {code}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in ("tasks", "configs")
        for line, code in known_tasks(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "if self.task == 'flow': pass",
        "if 'depth' != predictor.network.task.name: pass",
        "x = task in ('flow', 'depth')",
        "kind = 'segmentation'",
        "extensions = {'flow': '.flo', 'color': '.png'}",
        "y = NAMES[self._task]['flow']",
        "z = by_task.get('depth', 1)",
        "match config.task:\n    case 'flow': pass",
        "from v2v_jax.tasks import Classification",
        "isinstance(task, tasks.Flow)",
        "w = config.task.startswith('flow')",
    ],
)
def test_a_task_that_is_known_is_found(code):
    assert list(known_tasks(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "if 'flow' in frames: pass",
        "if name == 'flow': x = -x",
        "fields = ('video', 'flow', 'flow_valid', 'depth')",
        "depth = arrays['depth']",
        "task.sums(outputs, batch['flow'])",
        "raise ValueError('the flow of a task')",
    ],
)
def test_fields_are_no_tasks(code):
    assert not list(known_tasks(ast.parse(code)))


@pytest.mark.parametrize("kind", BUILT_IN.values(), ids=lambda kind: kind.name)
def test_a_task_is_one_file(kind):
    """Of its own name; the files beside it do not name it."""
    for path in (PACKAGE / "tasks").glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        defined = any(isinstance(n, ast.ClassDef) and n.name == kind.__name__ for n in nodes)
        named = any(isinstance(n, ast.Constant) and n.value == kind.name for n in nodes)
        assert defined == (path.stem == kind.name), path
        assert not named or defined, path
