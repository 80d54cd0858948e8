"""Who owns what, and who decides: definitions that outlive a node."""
