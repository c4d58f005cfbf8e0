"""Plain scores of targets, as a published script writes them; only ``bench.speed`` imports them, to time them."""
