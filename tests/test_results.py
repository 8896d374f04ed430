"""docs/results.md shows every table of the digits study, and says so if a stage has changed since."""

import importlib.util
import re

import pytest
from studies import ROOT

from agd.settings import configuration
from agd.settings.versions import VERSIONS

spec = importlib.util.spec_from_file_location("renew_results", ROOT / "docs" / "renew_results.py")
renew_results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(renew_results)
PAGE = renew_results.PAGE.read_text(encoding="utf-8")


def test_every_table_is_shown_in_order():
    names = renew_results.shown_tables(PAGE)
    assert names == list(configuration.shipped()["tables"]["digits"])
    for name in names:
        assert "Stage versions: " in PAGE[slice(*renew_results.between(PAGE, f"table {name}"))], f"{name}: not shown"


def test_its_pictures_are_there():
    linked = re.findall(r"\]\((images/[^)]+)\)", PAGE)
    tables = configuration.shipped()["tables"]["digits"].values()
    assert len(linked) == sum(kind in table for table in tables for kind in ("figure", "grid"))
    for name in linked:
        assert (renew_results.PAGE.parent / name).is_file(), name


def test_it_says_which_stages_have_changed_since(monkeypatch):
    shown = PAGE[slice(*renew_results.between(PAGE, "standing"))]
    assert shown == renew_results.standing(PAGE), "run PYTHONPATH=. python docs/renew_results.py"
    stated = renew_results.stated(PAGE)
    assert set(stated) >= {"train", "sample", "calculate_metrics", "measure_fidelity"}
    monkeypatch.setitem(VERSIONS, "train", stated["train"] + 1)
    assert f"(train {stated['train'] + 1} now)" in renew_results.standing(PAGE)
    with pytest.raises(ValueError, match="tables of train"):
        renew_results.stated(PAGE + f"Stage versions: train {stated['train'] + 1}.")
