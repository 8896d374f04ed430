# The commands at the start of every job's shell. No rules.
import os
import shlex

from snakemake.settings.types import DeploymentMethod

PREFIX = [
    # Snakemake's default, replaced by `shell.prefix`. A failing stage then fails its job, although `tee` succeeds.
    "set -euo pipefail",
    # A scheduler sends SIGTERM to all of a job's processes. Shell and `tee` must ignore it. Otherwise the stage would
    # be killed with the shell, before it writes its checkpoint and stops.
    "trap '' TERM",
    f"export PYTHONPATH={shlex.quote(str(workflow.basedir))}${{{{PYTHONPATH:+:$PYTHONPATH}}}}",
    # A folder agd/ in the working folder must not replace this checkout's.
    "export PYTHONSAFEPATH=1",
    # Waiting threads of torch must not keep cores busy that other processes need.
    "export OMP_WAIT_POLICY=${{OMP_WAIT_POLICY:-PASSIVE}}",
]
if not workflow.deployment_settings.deployment_method & {DeploymentMethod.CONDA, DeploymentMethod.APPTAINER}:
    # Use the Python that runs Snakemake, whatever is on PATH.
    PREFIX.append(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH")
shell.prefix("; ".join(PREFIX) + "; ")
