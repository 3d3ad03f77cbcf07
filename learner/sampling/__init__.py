"""Sample answers from a policy, with transformers or with vLLM."""
