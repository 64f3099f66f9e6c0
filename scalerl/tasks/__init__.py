"""Tasks: everything the rest of scalerl asks about one kind of problem; see README.md."""
