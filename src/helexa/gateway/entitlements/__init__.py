"""Who may spend how much: keys, budgets, and the ledger that loses nothing."""
