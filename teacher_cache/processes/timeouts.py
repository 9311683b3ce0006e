"""How long processes and ranks are waited for where nobody says otherwise."""

TIMEOUT_S = 120.0  # after so long without a message that it owes a process is taken to hang
RANK_TIMEOUT_S = 600.0  # and so a rank, after so long without anything that shows that others work
LEASE_S = 120.0  # a unit is another worker's once its own has given no sign for so long
ACTOR_TIMEOUT_S = 300.0  # a fill by actors ends where too few live for so long
