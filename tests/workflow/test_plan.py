"""agd.plan: what a study would cost, before anything runs."""

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from studies import two_models, write
from torch.utils.flop_counter import FlopCounterMode

from agd import plan
from agd.dit.anatomy import ANATOMY as DIT
from agd.measures.operations import denoiser
from agd.sd.anatomy import ANATOMY as UNET
from benchmarks.adapter_cost import DIT_XL
from benchmarks.sdxl_memory import SDXL


def job(command: str, **fields) -> plan.Job:
    return plan.Job("rule", fields, command)


@pytest.mark.parametrize(
    ("command", "evaluations"),
    [
        ("sample --guidance none --count 10 --num-inference-steps 8", 80),
        ("sample --guidance adapter --count 10 --num-inference-steps 8", 80),
        ("sample --guidance cfg --guided-share 1 --count 10 --num-inference-steps 8", 160),
        ("sample --guidance cfg --guided-share 0.5 --count 10 --num-inference-steps 8", 120),
        ("sample_trajectories --source guided --count 10 --num-inference-steps 8", 160),
        ("sample_trajectories --source diffusion --images I --count 10 --num-inference-steps 8", 160),
        ("sample_trajectories --source diffusion --count 10 --num-inference-steps 8", 240),
        ("train --steps 5 --batch-size 4 --no-gradient-checkpointing", 60),
        ("train --steps 5 --batch-size 4 --gradient-checkpointing", 80),
        (
            "measure_fidelity --guidance adapter --guidance-scales 1.5,2 --num-trajectories 3 --num-inference-steps 4",
            108,
        ),
        (
            "measure_fidelity --guidance adapter --guidance-scales auto --num-trajectories 3 --num-inference-steps 4",
            252,
        ),
        (
            "measure_fidelity --guidance cfg --guided-share 0.5 --guidance-scales 2 --num-trajectories 3 --num-inference-steps 4",
            72,
        ),
        ("measure_speed --rounds 5 --batch-size 4 --num-inference-steps 8", 1024),
        (
            """measure_speed --methods '{"early": {"guided_share": 0.5}, "wide": "R"}' --rounds 5 --batch-size 4 --num-inference-steps 8""",
            1504,
        ),
        ("calculate_metrics --device cpu", 0),
    ],
)
def test_evaluations_of_a_job(command, evaluations):
    assert job(f"python -m  agd.sd.{command} 2>&1 | tee log").evaluations() == evaluations


def test_evaluations_are_those_that_sampling_counts(finished):
    from agd.artifacts.sealed_json import read_sealed

    for method, guidance in (("agd", "adapter"), ("cfg", "cfg"), ("none", "none")):
        (file,) = finished.glob(f"results/tiny/seed0/samples/{method}/w1*/n3/000000.json")
        cost = read_sealed(file)
        words = f"sample --guidance {guidance} --count {cost['images']} --num-inference-steps 3"
        assert job(f"python -m agd.dit.{words}").evaluations() == cost["evaluations"]


@pytest.mark.parametrize(
    ("kind", "shapes", "anatomy", "teraflops"),
    [(UNet2DConditionModel, SDXL, UNET, 6.76), (DiTTransformer2DModel, DIT_XL, DIT, 0.237)],
    ids=["SDXL", "DiT-XL/2"],
)
def test_operations_of_the_real_models(kind, shapes, anatomy, teraflops):
    """SDXL: 2.98 T multiply-adds at 1024 x 1024, which leave out products of queries, keys and values: 0.4 T more.
    DiT-XL/2: 118.6 G, table 4 of arXiv 2212.09748."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = kind(**shapes).eval()
        model(**anatomy.example(model))
    assert counter.get_total_flops() / 1e12 == pytest.approx(teraflops, rel=0.05)


def test_a_denoiser_is_counted_from_its_configuration(base, tmp_path):
    found = denoiser(base, "dit")
    assert found.latent_values == 2 * 4 * 4
    assert found.pixels == 3 * 4 * 4
    assert found.operations > 0
    assert denoiser(str(tmp_path), "dit") is None
    for part in ("transformer", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{")
    assert denoiser(str(tmp_path), "dit") is None


def test_the_plan_of_a_study(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished)
    file = write(finished, two_models(tiny__sample__num_inference_steps=5, tiny__train__steps=9))
    words = ["--directory", str(finished), "--configfile", str(file)]
    plan.main(["results/tiny/fid.json", *words])
    said = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in said[2:]}
    assert said[0].startswith("results/tiny/fid.json: ")
    assert rows["sample"][1:3] == [
        "tiny",
        "6",
    ]  # none, cfg and agd, two files each; cfg with half the steps is there already
    assert rows["train"][1:3] == ["tiny", "1"]
    assert rows["train"][-1] == "benchmarks"  # an earlier job of the same model
    assert float(rows["train"][3]) >= 0
    plan.main(["results/text/seed0/metrics/none/w1/n3.json", *words])
    assert "text/seed0/metrics/none/w1/n3.json: 0 jobs to run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["results/nowhere/x"], "Snakemake can't plan it"),
        (["results/tiny/fid.json", "--teraflops", "0"], "must be a number above 0"),
        (["results/tiny/fid.json", "--teraflops", "nan"], "must be a number above 0"),
    ],
)
def test_a_mistake_is_one_line(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        plan.main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
