"""Compare a DiT's samples with real images: `python -m agd.dit.calculate_metrics --dir R --ref X`."""

from agd.cli import door

main = door("calculate_metrics", family="dit", model="dit")

if __name__ == "__main__":
    main()
