"""Do environments agree on what to learn: their gradients, rules that combine them, and what the agreement tells."""
