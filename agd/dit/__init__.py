"""The class-conditional family: DiT-XL/2 and every other model that `DiTPipeline` opens."""
