"""The teacher: a name and weights -> a module, who it is, and running it."""
