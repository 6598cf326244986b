"""Many files: a plan of them enters, finished files, a ledger and a report leave."""
