"""What an engine does under a number of users, how it is asked for it, and what is said of it."""
