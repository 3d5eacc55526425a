"""What is particular to a paper's page, a module per paper."""
