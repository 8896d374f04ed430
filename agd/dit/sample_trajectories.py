"""Samples guided trajectories of a DiT: `python -m agd.dit.sample_trajectories --output-dir T`."""

from agd.settings.entry_points import entry_point

main = entry_point("sample_trajectories", family="dit", model="dit")

if __name__ == "__main__":
    main()
