"""Quantize a model, in one format or within a budget of bits; and back.

usage: python -m experiments.quantize [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]
       python -m experiments.quantize --plan ...   (does a training fit a GPU?  see --plan --help)

  python -m experiments.quantize --config configs/quantize_smollm2.py
  python -m experiments.quantize --config.budget.bits=3.5 --config.workdir=runs/smollm2_3.5
  python -m experiments.quantize --config.budget.bits=None --config.quant.codebook=nf3
  python -m experiments.quantize --config.source=runs/quantize_smollm2/model --config.dequantize=runs/smollm2_dense

With a budget each matrix gets the codebook and block size that make the total error least; the errors are weighted by
what flows through the matrix on a calibration text.

Written into --config.workdir:
  model/       the quantized model: a source for every command (with --config.model.quantize=False)
  report.json  format, bits, bytes and error of every matrix; perplexity before and after; settings, versions
  bits.png     bits by layer and map
"""

import dataclasses
import pathlib
import runpy
import sys
from typing import Any

from experiments import command
from experiments.configdict import from_config
from experiments.quantize.run import dequantize, quantize
from experiments.quantize.settings import QuantizeExperiment
from lqlm.io.disk import write_atomic
from lqlm.io.monitor import versions

DEFAULT = "configs/quantize_smollm2.py"
PLAN = "--plan"


def main(config: Any) -> None:
    """One quantization, or the way back."""
    settings = from_config(QuantizeExperiment, config)
    command.use_compilation_cache()
    if settings.dequantize:
        print(dequantize(settings))
        return
    report, workdir = quantize(settings), pathlib.Path(settings.workdir)
    write_atomic(workdir / "bits.png", report.picture())
    write_atomic(workdir / "report.json", report.json({"versions": versions(), "config": dataclasses.asdict(settings)}))
    print(f"{report.table()}\n{workdir}/: model/ report.json bits.png")


if __name__ == "__main__":
    if PLAN in sys.argv:
        sys.argv.remove(PLAN)
        runpy.run_module("experiments.plan", run_name="__main__")
    command.run(main, QuantizeExperiment, __doc__ or "", DEFAULT)
