"""Sample guided trajectories of a text-to-image model: `python -m agd.sd.sample_trajectories --output-dir T ...`."""

from agd.cli import door

main = door("sample_trajectories", family="sd", model="sd21")

if __name__ == "__main__":
    main()
