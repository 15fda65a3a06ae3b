"""What outlives the process: the database and the files beside it."""
