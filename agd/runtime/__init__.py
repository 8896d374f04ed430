"""Run-time helpers of every program: user errors, progress bars, signals, devices, seeds.

Imports no other folder of agd.
"""

from agd.runtime.lazy import hand_on

__all__, __getattr__ = hand_on(
    __name__,
    errors=["UserError", "one_line"],
    progress=["progress_bar"],
    signals=["Terminated", "stop_at_once", "stop_when_safe"],
    devices=["describe", "device", "dtype", "fitting"],
    seeds=["seed_of"],
)
