# The GPUs and processes of jobs, a check of file dates, and what a failed run leaves. No rules.
from agd.artifacts.user_files import date_as_of_now


onstart:
    if late := date_as_of_now("results"):
        print(  # to stderr: `make demo` shows it
            f"agd: {len(late)} files of results/ were dated in the future, as {late[0]}; a clock is wrong. They are dated now.",
            file=sys.stderr,
        )


onerror:
    # Snakemake deletes what a job is to make anew, and misses nothing between what is finished: after a failed training, the old
    # fid.json would be up to date. What depends on lost files is marked as begun and not finished, so that the next run makes both.
    planned = list(workflow.dag.needrun_jobs())
    lost = [job for job in planned if not all(Path(file).exists() for file in job.output)]
    for job in set(workflow.dag.bfs(workflow.dag.depending, *lost)) - set(lost):
        if any(Path(file).exists() for file in job.output):
            workflow.persistence.started(job)


def gpu(stage):
    """A resource: the number of GPUs set (default: one), or none if the stage runs on the CPU."""

    def number(wildcards):
        chosen = settings(stage, wildcards)
        return chosen.get("gpu", 1) if chosen["device"] != "cpu" else 0

    return number


def threads(stage, on_cpu):
    """The threads of a job. With a GPU, as many as can keep it busy: workers that read pairs, or threads that read images.

    on_cpu: without one. A job gets no more than there are (`--cores`).
    """

    def number(wildcards):
        chosen = settings(stage, wildcards)
        if chosen["device"] == "cpu":
            return on_cpu
        return chosen["gpu"] * (1 + chosen["num_workers"]) if "num_workers" in chosen else 8

    return number


def own_gpus(stage):
    """A param: the command that gives a job GPUs of its own. Like `execution_settings`. Empty if the setting names one."""

    def command(wildcards, resources):
        number = 0 if ":" in settings(stage, wildcards)["device"] else gpu(stage)(wildcards)
        return f"python -m agd.runtime.gpus {number} " if number else ""

    return command


def launcher(stage):
    """A param: the module that starts a stage in several processes, if so set. Like `execution_settings`."""

    def name(wildcards, resources):
        number = settings(stage, wildcards)["gpu"]
        return f"torch.distributed.run --standalone --nproc-per-node {number} -m" if number > 1 else ""

    return name
