"""Sample images of prompts, with an adapter or without: `python -m agd.sd.sample --dir R --prompt P`."""

from agd.cli import door

main = door("sample", family="sd", model="sd21")

if __name__ == "__main__":
    main()
