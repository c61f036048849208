"""The service in the way of every request, between the edge and the gateway: it carries bytes and counts."""
