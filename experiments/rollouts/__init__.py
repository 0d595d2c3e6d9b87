"""Problems, samples and rewards: what every algorithm that learns from its own samples shares."""
