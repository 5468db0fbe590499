"""What a person reads of an evaluation: a table and two figures."""
