"""Turn text and votes into token ids: tokenizer, packed rows, answers, training examples."""
