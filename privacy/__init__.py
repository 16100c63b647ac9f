"""Taking people out of footage, and showing what is left of them: removal, audit, cards. Knows shards, not training."""
