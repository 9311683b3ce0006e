"""Being a process, and having others: how they start and end, what they share, and how long they are waited for."""
