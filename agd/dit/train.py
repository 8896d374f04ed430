"""Train an adapter for a DiT: `python -m agd.dit.train --dir R --data-path T`."""

from agd.cli import door

main = door("train", family="dit", model="dit")

if __name__ == "__main__":
    main()
