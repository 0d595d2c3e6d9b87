"""The table of adapters: means over seeds, and every kind's config builds."""

import pytest

from benchmarks.adapters import KEYS, Result, measured, rows
from configs.sft_adapters import KINDS, get_config
from experiments.configdict import from_config
from experiments.sft.settings import SFTExperiment
from lqlm.errors import UserError


def result(kind, seed, after, keys=tuple(KEYS)[:2]):
    return Result(kind, seed, dict.fromkeys(keys, 4.0), dict.fromkeys(keys, after), 1234, 10.0)


def test_a_row_for_each_kind_with_means_and_spread():
    table = rows([result("lora", 0, 1.0), result("lora", 1, 3.0), result("ia3", 0, 2.0)])
    spread = "2.000 +- 1.414"
    assert table == [
        ["lora", "2", "1,234", "4.000", spread, "4.000", spread, "10"],
        ["ia3", "1", "1,234", "4.000", "2.000", "4.000", "2.000", "10"],
    ]


def test_a_metric_is_shown_where_every_run_has_it():
    both = [result("lora", 0, 1.0, tuple(KEYS)), result("ia3", 0, 2.0)]
    assert measured(both) == ["eval/perplexity", "eval/mean_token_accuracy"]
    assert measured(both[:1]) == list(KEYS)
    assert len(rows(both[:1])[0]) == 3 + 2 * len(KEYS) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_own_adapter_and_place(kind):
    settings = from_config(SFTExperiment, get_config(kind))
    assert settings.adapter == KINDS[kind][0] and settings.workdir.endswith(kind)
    assert settings.model.quantize == KINDS[kind][1]


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match=r"sft_adapters.py:lorra: no such kind; choose lora, dense-lora"):
        get_config("lorra")
