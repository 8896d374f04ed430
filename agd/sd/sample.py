"""Samples images of prompts, with or without an adapter: `python -m agd.sd.sample --dir R --prompt P`."""

from agd.settings.entry_points import entry_point

main = entry_point("sample", family="sd", model="sd21")

if __name__ == "__main__":
    main()
