"""What both engines do with the same requests, and what differs. Pure: no network."""
