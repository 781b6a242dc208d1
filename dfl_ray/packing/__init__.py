"""Which devices share an actor, and which actors a node."""
