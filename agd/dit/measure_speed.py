"""Measures how fast an adapter samples: `python -m agd.dit.measure_speed --dir R`."""

from agd.settings.entry_points import entry_point

main = entry_point("measure_speed", family="dit", model="dit")

if __name__ == "__main__":
    main()
