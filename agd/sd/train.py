"""Train an adapter for a text-to-image model: `python -m agd.sd.train --dir R --data-path T`."""

from agd.cli import door

main = door("train", family="sd", model="sd21")

if __name__ == "__main__":
    main()
