"""What goes into the images: files that run in a container, and pinned lists of what is installed there."""
