"""The reward model: its likelihoods, training and evaluation; which raters to trust."""
