"""The frozen language model: what to load, how texts become tokens, hooks on its blocks, what it writes."""
