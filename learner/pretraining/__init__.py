"""Next-token training: pre-training from random weights and supervised fine-tuning."""
