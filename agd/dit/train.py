"""Trains an adapter for a DiT: `python -m agd.dit.train --dir R --data-path T`."""

from agd.settings.entry_points import entry_point

main = entry_point("train", family="dit", model="dit")

if __name__ == "__main__":
    main()
