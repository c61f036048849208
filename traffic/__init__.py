"""The requests that really came: what the access log says of them, and how many were there at a time."""
