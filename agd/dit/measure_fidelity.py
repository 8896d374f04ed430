"""Measures how much of the guidance an adapter gives: `python -m agd.dit.measure_fidelity --dir R`."""

from agd.settings.entry_points import entry_point

main = entry_point("measure_fidelity", family="dit", model="dit")

if __name__ == "__main__":
    main()
