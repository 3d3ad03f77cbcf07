"""The learner as a service: learning cycles, their stages and state, publication."""
