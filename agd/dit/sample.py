"""Samples images of a DiT, with or without an adapter: `python -m agd.dit.sample --dir R`."""

from agd.settings.entry_points import entry_point

main = entry_point("sample", family="dit", model="dit")

if __name__ == "__main__":
    main()
