"""Claims of "Slowing learning by erasing simple features" and of the work it builds on."""
