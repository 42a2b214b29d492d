"""Labels that a teacher makes."""
