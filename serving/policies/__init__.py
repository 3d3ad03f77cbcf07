"""Which policies a replica has loaded, and how it swaps them."""
