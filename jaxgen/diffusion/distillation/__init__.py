"""From many steps to few: progressive and consistency distillation."""
