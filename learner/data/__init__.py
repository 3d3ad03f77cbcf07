"""Token ids: the tokenizer, packed rows, prompts with their answers, preferences."""
