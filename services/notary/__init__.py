"""Has our checkpoints cosigned by others, and says so loudly when another history of our log is seen."""
