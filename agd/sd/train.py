"""Trains an adapter for a text-to-image model: `python -m agd.sd.train --dir R --data-path T`."""

from agd.settings.entry_points import entry_point

main = entry_point("train", family="sd", model="sd21")

if __name__ == "__main__":
    main()
