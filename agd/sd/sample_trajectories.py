"""Samples guided trajectories of a text-to-image model: `python -m agd.sd.sample_trajectories --output-dir T ...`."""

from agd.settings.entry_points import entry_point

main = entry_point("sample_trajectories", family="sd", model="sd21")

if __name__ == "__main__":
    main()
