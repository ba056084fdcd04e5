"""The planning core: from a profile and budgets to ranks and a proof. No torch, no SQL, no queue."""
