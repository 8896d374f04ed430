"""Versions can't be forgotten: fingerprints see code."""

from pathlib import Path

import pytest
from studies import ROOT

from agd.settings import fingerprints
from agd.settings.versions import VERSIONS


def test_versions_lock_is_in_step():
    assert fingerprints.moved() == [], "run `python -m agd.settings.fingerprints --help`"


def test_fingerprints_see_code_and_not_comments(monkeypatch):
    def of(text: str) -> list:
        file = ROOT / "agd" / "diffusion" / "guidance.py"
        original = file.read_text()
        assert "guided = uncond + w * (cond - uncond)" in original
        with monkeypatch.context() as patch:
            read = Path.read_text
            changed = original.replace("    guided = uncond + w * (cond - uncond)", text)
            patch.setattr(Path, "read_text", lambda self, **o: changed if self == file else read(self, **o))
            return [stage for stage in VERSIONS if fingerprints.fingerprint(stage) != before[stage]]

    before = {stage: fingerprints.fingerprint(stage) for stage in VERSIONS}
    assert of("    # why\n    guided = uncond + w * (cond - uncond)") == []
    assert of("    guided = uncond + 2 * w * (cond - uncond)") == [
        *("sample_trajectories", "sample", "measure_fidelity", "measure_speed")
    ]


def test_fingerprints_cover_families_and_what_they_import():
    closure = fingerprints.closure(fingerprints.roots("train"))
    for name in ("agd.dit.family", "agd.sd.anatomy", "agd.adapters.layers", "agd.artifacts.files", "agd.runtime.seeds"):
        assert name in closure
    assert "agd.settings.versions" not in closure
    assert "agd.measures.distances" not in closure


def test_fingerprints_tell_the_ends_of_a_slice_apart():
    def of(text: str) -> str:
        return str(fingerprints.skeleton(fingerprints.ast.parse(text)))

    assert of("x[:n]") != of("x[n:]")
    assert of("def f(a=1): pass") != of("def f(*, a=1): pass")


def test_versions_rise_by_one(tmp_path, monkeypatch):
    (tmp_path / "versions.py").write_text(fingerprints.VERSIONS_FILE.read_text())
    monkeypatch.setattr(fingerprints, "LOCK", tmp_path / "versions.lock")
    before = dict(VERSIONS)
    with pytest.raises(SystemExit, match="code of these stages moved"):
        fingerprints.main([])
    monkeypatch.setattr(fingerprints, "VERSIONS_FILE", tmp_path / "versions.py")
    try:
        fingerprints.main(["--changed", "train"])
        assert f'"train": {before["train"] + 1}' in (tmp_path / "versions.py").read_text()
        assert fingerprints.moved() == []
    finally:
        VERSIONS.update(before)
