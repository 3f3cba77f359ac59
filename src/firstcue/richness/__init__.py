"""How much training transformed the features, which of them the head uses, and how far from the start the network is."""
