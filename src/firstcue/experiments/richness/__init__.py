"""Claims about rich and lazy training: what moves it, which measures follow it, and what it is good and bad for."""
