"""The one pen: admits signed records, commits them with tree and checkpoint in one transaction, publishes them, and reads them back."""
