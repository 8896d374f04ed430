"""Compare text-to-image samples with real images: `python -m agd.sd.calculate_metrics --dir R --ref X`."""

from agd.cli import door

main = door("calculate_metrics", family="sd", model="sd21")

if __name__ == "__main__":
    main()
