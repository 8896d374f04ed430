# What jobs take from machines: GPUs, processes, and the time. No rules.
import time

from agd.artifacts import to_the_present

CLOCKS_DIFFER = 60  # seconds, between machines that are well kept


onstart:
    if late := to_the_present("results"):
        print(
            f"agd: {len(late)} files of results/ were dated in the future, as {late[0]}; a clock is wrong. They are dated now."
        )


def gpu(stage):
    """A resource: one GPU, or as many as are set, unless the stage is to run on the CPU."""

    def number(wildcards):
        chosen = settings(stage, wildcards)
        return chosen.get("gpu", 1) if chosen["device"] != "cpu" else 0

    return number


def launcher(stage):
    """A param: the module that starts a stage in as many processes as are set, if not in one. Says only how, as above."""

    def module(wildcards, resources):
        number = settings(stage, wildcards)["gpu"]
        return f"torch.distributed.run --standalone --nproc-per-node {number} -m" if number > 1 else ""

    return module


def dated(key, files):
    """The same files, given by the user; ends with one line if one is from the future: Snakemake would throw away what is
    made from it."""
    for file in files:
        if (when := Path(file).stat().st_mtime) > time.time() + CLOCKS_DIFFER:
            stop(f"{key}: {file} is dated {time.ctime(when)}, in the future; mend the clock, or `touch` it")
    return files
