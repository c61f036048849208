"""What an engine does under a number of users: how it is asked, its figures, pictures and report."""
