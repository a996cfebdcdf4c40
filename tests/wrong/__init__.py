"""Wrong inputs, one kind per file, and what must be said of each: tables that tests of several folders share."""
