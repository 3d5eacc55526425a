"""Files from elsewhere: addresses, transfers, archives, ledgers."""
