"""`make bench`: the agent's speed and size on this machine, measured from outside."""
