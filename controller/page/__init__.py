"""The page that a manager serves: from objects to HTML, and to the messages that keep an open page current. Pure."""
