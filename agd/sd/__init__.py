"""The text-to-image family: Stable Diffusion 1.x and 2.x and SDXL, told apart by what their weights declare."""
