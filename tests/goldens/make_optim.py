"""Make optim.npz: ten steps of Adam by bitsandbytes and torch (peers installed: python tests/goldens/make_optim.py)."""

import json
import pathlib
import sys

import bitsandbytes
import bitsandbytes.functional as bnb
import numpy as np
import torch

RATE, STEPS, SHAPE = 1e-3, 10, (64, 64)
SETTINGS = {
    "adam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    "adamw": {"b1": 0.9, "b2": 0.99, "eps": 1e-6, "weight_decay": 0.1},
}


def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A parameter, and gradients ``scale * steps[t]`` of many sizes; one row in eight is always zero."""
    rng = np.random.default_rng(20240601)
    scale = np.exp(rng.normal(size=SHAPE)).astype(np.float32)
    scale[::8] = 0.0
    return rng.normal(size=SHAPE).astype(np.float32), scale, rng.integers(-7, 8, (STEPS, *SHAPE)).astype(np.int8)


def run(build: type, case: str) -> np.ndarray:
    """The parameter after all steps."""
    start, scale, steps = problem()
    parameter = torch.nn.Parameter(torch.tensor(start))
    s = SETTINGS[case]
    optimizer = build([parameter], lr=RATE, betas=(s["b1"], s["b2"]), eps=s["eps"], weight_decay=s["weight_decay"])
    for step in steps:
        parameter.grad = torch.tensor(scale * step)
        optimizer.step()
    return parameter.detach().numpy()


def main(out_dir: pathlib.Path) -> None:
    """Write optim.npz into a folder."""
    optim = bitsandbytes.optim
    start, scale, steps = problem()
    arrays = {
        "start": start,
        "scale": scale,
        "steps": steps,
        "adam/bits8": run(optim.Adam8bit, "adam"),
        "adam/bits32": run(torch.optim.Adam, "adam"),
        "adamw/bits8": run(optim.AdamW8bit, "adamw"),
        "adamw/bits32": run(torch.optim.AdamW, "adamw"),
        "map/signed": bnb.create_dynamic_map(signed=True).numpy(),
        "map/unsigned": bnb.create_dynamic_map(signed=False).numpy(),
        "settings": np.array(json.dumps(SETTINGS)),
    }
    versions = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "numpy": np.__version__}
    arrays["versions"] = np.array(json.dumps(versions))
    np.savez_compressed(pathlib.Path(out_dir) / "optim.npz", **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
