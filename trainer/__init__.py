"""Networks, their training without and with labels, and their scores."""
