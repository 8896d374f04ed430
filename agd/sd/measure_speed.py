"""Measures how fast an adapter samples: `python -m agd.sd.measure_speed --dir R --prompt-file F`."""

from agd.settings.entry_points import entry_point

main = entry_point("measure_speed", family="sd", model="sd21")

if __name__ == "__main__":
    main()
