"""From predictions to the cells of tables."""
