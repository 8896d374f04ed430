"""Compares text-to-image samples with real images: `python -m agd.sd.calculate_metrics --dir R --ref X`."""

from agd.settings.entry_points import entry_point

main = entry_point("calculate_metrics", family="sd", model="sd21")

if __name__ == "__main__":
    main()
