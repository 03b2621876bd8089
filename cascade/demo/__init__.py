"""`cascade demo`: a real small model and a larger one on questions with known answers."""
