"""The reward model: likelihoods, loss, training and evaluation; the reliability of raters."""
