"""The text of a comparison."""

import pytest

from agd.artifacts.comparison_text import table
from agd.runtime.errors import UserError
from agd.tabulate import check_timed


def record(**more) -> dict:
    """A fid.json of two methods; more: measures that agd has beside the usual ones."""
    row = {"fid": 12.5, "kid": 0.25, "precision": 0.75, "recall": 0.5, "nfe": 8, "seconds_per_image": 0.002}
    head = {"model": "dit", "num_samples": 9, "guidance_scale": 1.5, "num_inference_steps": 8, "seeds": [0, 1]}
    size = {"parameters": 100, "fraction_of_base": 0.02}
    methods = {"cfg": {**row, "nfe": 16}, "agd": {**row, **more}}
    return {**head, "features": "x", "reference": {}, "adapter": size, "methods": methods, "fidelity": {}}


@pytest.mark.parametrize(
    ("more", "titles", "cells"),
    [
        ({}, [], []),
        ({"clip_score": 31.25}, ["CLIP"], ["31.25"]),
        ({"sfid": 4.5, "inception_score": 250.125}, ["sFID", "IS"], ["4.50", "250.12"]),
        ({"clip_score": 31.25, "inception_score": 9}, ["IS", "CLIP"], ["9.00", "31.25"]),
    ],
)
def test_measures_that_some_extractors_give_have_columns(more, titles, cells):
    _, head, cfg, agd, _ = table(record(**more), "agd").splitlines()
    usual = ["method", "distance", "KID", "precision", "recall", "NFE", "ms/image"]
    assert head.split() == [*usual, *titles]
    assert cfg.split() == ["cfg", "12.50", "0.2500", "0.750", "0.500", "16", "2.00", *["-"] * len(titles)]
    assert agd.split() == ["agd", "12.50", "0.2500", "0.750", "0.500", "8", "2.00", *cells]
    assert len(head) == len(cfg) == len(agd)


def test_speed_is_that_of_one_process():
    speed = {"median": 1.94, "lowest": 1.9, "highest": 2}
    made = record(speedup_over_cfg=speed) | {"speed": {"images": 4, "rounds": 5, "merged": True, "seed": 0}}
    _, head, cfg, agd, *_, last = table(made, "agd").splitlines()
    assert (head.split()[-1], cfg.split()[-1], agd.split()[-1]) == ("speed", "-", "1.94")
    assert (
        last == "speed: how many times as fast as cfg, in turn in one process; agd 1.90 to 2.00 in 5 rounds of 4 images"
    )


def test_what_was_timed_is_what_was_sampled():
    def of(**samples) -> dict:
        return {"0": {"provenance": {"samples": samples}}}

    methods = {
        "early": of(settings={"guided_share": 0.6, "dtype": "float32"}),
        "wide": of(settings={}, adapter={"rank": 8}),
    }
    same = {"early": {"settings": {"guided_share": 0.6}}, "wide": {"adapter": {"rank": 8}}}
    check_timed("speed.json", {"provenance": {"seed": 0, "others": same}}, methods)
    check_timed("speed.json", {"provenance": {"seed": 0}}, methods)
    for name, then in (("early", {"settings": {"guided_share": 0.5}}), ("wide", {"adapter": {"rank": 4}})):
        with pytest.raises(UserError, match=f"speed.json: timed another {name} than its samples were made with"):
            check_timed("speed.json", {"provenance": {"seed": 0, "others": {**same, name: then}}}, methods)
