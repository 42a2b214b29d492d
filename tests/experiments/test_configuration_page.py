"""v2v_jax/run/config_fields.py has every field of every recipe, and the page is made of it."""

import itertools

import pytest

from experiments import configuration_page
from v2v_jax.cli import config_options
from v2v_jax.datasets import DATASETS
from v2v_jax.run import config_fields, recipes
from v2v_jax.run.recipe_files import known_recipes

OUR_DATASETS = sorted(config_fields.DATASET_FIELDS)


@pytest.fixture(scope="module")
def configurations():
    """(dataset, field → value) of every recipe on every dataset, modern, paper's, and demos."""
    names, found = known_recipes(), []
    for name, dataset, recipe in itertools.product(names, OUR_DATASETS, ("modern", "paper")):
        config = config_options.read(f"{name}:dataset={dataset},recipe={recipe}")
        found.append((dataset, configuration_page.flat(config)))
    found += [("scenes", configuration_page.flat(config_options.read(f"{n}:demo"))) for n in names]
    return found


def test_every_field_has_an_entry_and_every_entry_a_field(configurations):
    general = set().union(*config_fields.FIELDS.values())
    seen = set()
    for dataset, values in configurations:
        own = {f"data.{option}" for option in config_fields.DATASET_FIELDS[dataset]}
        assert values.keys() <= general | own, dataset
        assert own <= values.keys(), dataset
        seen |= values.keys() & general
    assert seen == general


def test_no_dataset_of_ours_is_left_out():
    ours = {name for name, entry in DATASETS.items() if entry.open.__module__ == "v2v_jax.datasets"}
    assert ours == set(OUR_DATASETS)


def test_rules_are_of_fields_that_exist():
    general = set().union(*config_fields.FIELDS.values())
    assert {*recipes.NUMBERS, *recipes.CHOICES, *recipes.TUPLES} <= general
    assert recipes.ANY_DATA_NUMBERS.keys() <= config_fields.DATASET_FIELDS["davis"].keys()
    for dataset, rules in recipes.DATA_NUMBERS.items():
        assert rules.keys() <= config_fields.DATASET_FIELDS[dataset].keys()


def test_meanings_are_sentences():
    entries = [*config_fields.FIELDS.values(), *config_fields.DATASET_FIELDS.values()]
    for field in itertools.chain.from_iterable(group.values() for group in entries):
        assert field.meaning.endswith(".") and "|" not in field.meaning + field.unit


def test_the_page_is_what_the_fields_make():
    assert configuration_page.PATH.read_text() == configuration_page.page(), (
        "python -m experiments.configuration_page"
    )


def test_the_page_says_what_recipes_have():
    page = configuration_page.page()
    assert "| `batch_size` | `32`. Paper: `1`; c3d `30` | clips | Clips of a step" in page
    assert "`data.num_train_videos` | `4000`; c3d `18000` | videos | Training videos. At" in page
    assert "Known: `auto`, `float32` and `bfloat16`. |" in page
