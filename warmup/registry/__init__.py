"""Knowledge of a cluster's artifacts: which there are, who makes one, whose bytes are at hand."""
