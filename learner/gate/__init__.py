"""Whether a candidate may go live: the gate before publication, the duel after it."""
