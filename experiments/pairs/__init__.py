"""What a reward model and DPO share: pairs as data, and the settings of a run on them."""
