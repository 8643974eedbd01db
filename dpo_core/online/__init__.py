"""Rounds of online preference training: images of the policy, judged, trained on."""
