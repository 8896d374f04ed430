"""Compares a DiT's samples with real images: `python -m agd.dit.calculate_metrics --dir R --ref X`."""

from agd.settings.entry_points import entry_point

main = entry_point("calculate_metrics", family="dit", model="dit")

if __name__ == "__main__":
    main()
