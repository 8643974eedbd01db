"""What a person chose among generated images: the vote log, ratings, tournament, and pairs."""
