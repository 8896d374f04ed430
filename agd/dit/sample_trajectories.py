"""Sample guided trajectories of a DiT: `python -m agd.dit.sample_trajectories --output-dir T`."""

from agd.cli import door

main = door("sample_trajectories", family="dit", model="dit")

if __name__ == "__main__":
    main()
