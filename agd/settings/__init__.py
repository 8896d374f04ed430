"""Settings: schema, configuration, command lines, the registries of stages and families, and versions of stages.

Imports only agd.runtime, and nothing heavy: Snakemake reads this folder at every start.
"""

from agd.runtime.lazy import hand_on

__all__, __getattr__ = hand_on(
    __name__,
    schema=["execution_settings", "properties", "result_settings"],
    configuration=["check", "shipped"],
    entry_points=["entry_point"],
    stages=["STAGES", "Argument", "Stage"],
    versions=["VERSIONS"],
)
