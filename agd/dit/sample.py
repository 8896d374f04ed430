"""Sample images of a DiT, with an adapter or without: `python -m agd.dit.sample --dir R`."""

from agd.cli import door

main = door("sample", family="dit", model="dit")

if __name__ == "__main__":
    main()
