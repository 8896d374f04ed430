"""Measures how much of the guidance an adapter gives: `python -m agd.sd.measure_fidelity --dir R --prompt-file F`."""

from agd.settings.entry_points import entry_point

main = entry_point("measure_fidelity", family="sd", model="sd21")

if __name__ == "__main__":
    main()
