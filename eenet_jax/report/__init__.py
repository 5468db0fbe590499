"""What a person reads of an evaluation: tables and figures."""
