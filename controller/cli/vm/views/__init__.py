"""What the commands show to people: pure functions from an object and the time to lines."""
